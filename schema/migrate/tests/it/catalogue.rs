//! The whole schema of Postgres as text, one line per object, so that two schemas can be compared.

use std::collections::BTreeSet;

use sqlx::PgConnection;

/// Everything in schema `public`, except for the journal: tables with their row-level security, columns with type,
/// default, identity and order, constraints, indexes, triggers, policies, functions with their bodies, views with their
/// options, types, sequences, rules, comments and every grant.
pub(crate) async fn catalogue(connection: &mut PgConnection) -> BTreeSet<String> {
    let lines: Vec<String> = sqlx::query_scalar(SQL).fetch_all(connection).await.unwrap();
    // `migrate` makes the journal itself, and the journal stays when everything is taken back.
    lines.into_iter().filter(|line| !line.contains(migrate::JOURNAL)).collect()
}

/// Fails with the lines that differ between two catalogues.
#[track_caller]
pub(crate) fn assert_same(found: &BTreeSet<String>, wanted: &BTreeSet<String>, when: &str) {
    let lines = |sign: char, of: &BTreeSet<String>, without: &BTreeSet<String>| -> String {
        of.difference(without).map(|line| format!("{sign} {line}\n")).collect()
    };
    assert!(found == wanted, "{when}:\n{}{}", lines('+', found, wanted), lines('-', wanted, found));
}

const SQL: &str = "
    WITH ours AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace),
    granted AS (
        SELECT 'relation ' || oid::regclass AS object, relowner AS owner,
               coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", relowner)) AS acl
          FROM ours WHERE relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL SELECT format('column %s.%s', attrelid::regclass, attname), relowner, attacl
          FROM pg_attribute JOIN ours ON ours.oid = attrelid WHERE attacl IS NOT NULL AND NOT attisdropped
        UNION ALL SELECT 'function ' || oid::regprocedure, proowner, coalesce(proacl, acldefault('f', proowner))
          FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'type ' || oid::regtype, typowner, coalesce(typacl, acldefault('T', typowner))
          FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd', 'r')
        UNION ALL SELECT 'schema ' || nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner))
          FROM pg_namespace WHERE nspname = 'public'
    )
    SELECT format('grant on %s to %s by %s: %s grantable=%s', object, coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC'),
                  grantor::regrole, privilege_type, is_grantable) AS line
      FROM granted, aclexplode(acl)
    UNION ALL
    SELECT format('owner of %s: %s', object, owner::regrole) FROM granted
    UNION ALL
    SELECT format('relation %s %s rls=%s force=%s persistence=%s options=%s', relkind, oid::regclass, relrowsecurity,
                  relforcerowsecurity, relpersistence, reloptions)
      FROM ours WHERE relkind NOT IN ('i', 'I')
    UNION ALL
    SELECT format('column %s.%s place=%s %s null=%s default=%s identity=%s generated=%s', attrelid::regclass, attname,
                  row_number() OVER (PARTITION BY attrelid ORDER BY attnum), format_type(atttypid, atttypmod),
                  NOT attnotnull, pg_get_expr(adbin, adrelid), attidentity, attgenerated)
      FROM pg_attribute
      JOIN ours ON ours.oid = attrelid AND relkind NOT IN ('i', 'I')
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT format('constraint %s on %s: %s validated=%s', conname,
                  CASE WHEN conrelid <> 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END,
                  pg_get_constraintdef(oid), convalidated)
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT format('index %s valid=%s', pg_get_indexdef(indexrelid), indisvalid)
      FROM pg_index JOIN ours ON ours.oid = indexrelid
    UNION ALL
    SELECT format('trigger %s enabled=%s', pg_get_triggerdef(t.oid), tgenabled)
      FROM pg_trigger t JOIN ours ON ours.oid = tgrelid WHERE NOT tgisinternal
    UNION ALL
    SELECT format('rule %s', pg_get_ruledef(r.oid))
      FROM pg_rewrite r JOIN ours ON ours.oid = ev_class WHERE rulename <> '_RETURN'
    UNION ALL
    SELECT format('policy %s on %s for %s permissive=%s roles=%s using=%s check=%s', polname, polrelid::regclass, polcmd,
                  polpermissive, polroles::regrole[], pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
      FROM pg_policy JOIN ours ON ours.oid = polrelid
    UNION ALL
    SELECT 'function ' || pg_get_functiondef(oid)
      FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p')
    UNION ALL
    SELECT format('view %s: %s', oid::regclass, pg_get_viewdef(oid)) FROM ours WHERE relkind IN ('v', 'm')
    UNION ALL
    SELECT format('type %s %s of=%s default=%s null=%s values=%s', typtype, oid::regtype, format_type(typbasetype, typtypmod),
                  typdefault, NOT typnotnull, ARRAY(SELECT enumlabel FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder))
      FROM pg_type t WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd', 'r')
    UNION ALL
    SELECT format('sequence %s %s start=%s by=%s %s..%s cycle=%s', seqrelid::regclass, seqtypid::regtype, seqstart,
                  seqincrement, seqmin, seqmax, seqcycle)
      FROM pg_sequence JOIN ours ON ours.oid = seqrelid
    UNION ALL
    SELECT format('default grants of %s for %s: %s', defaclrole::regrole, defaclobjtype, defaclacl) FROM pg_default_acl
    UNION ALL
    SELECT format('comment on %s: %s', pg_describe_object(classoid, objoid, objsubid), description)
      FROM pg_description WHERE objoid >= 16384
    UNION ALL
    SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'
    UNION ALL
    SELECT format('extension %s %s', extname, extversion) FROM pg_extension";
