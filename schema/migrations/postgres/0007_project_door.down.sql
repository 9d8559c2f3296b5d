DROP FUNCTION find_project(uuid);
DROP POLICY project_lookup ON tenant_projects;
