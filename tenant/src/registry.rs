//! Changes to orgs, projects and keys. Placeholder.
