//! The table of keys in the documentation is the one the types give.

use std::path::Path;

const BEGIN: &str = "<!-- keys: begin (generated; `BLESS=1 cargo test -p workfile` rewrites it) -->\n";
const END: &str = "<!-- keys: end -->\n";

#[test]
fn the_documented_keys_are_those_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/workload-file.md");
    let text = std::fs::read_to_string(&path).expect("docs/workload-file.md exists");
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the table is marked");
    let (documented, after) = rest.split_once(END).expect("the end of the table is marked");
    let table = workfile::key_table();
    if std::env::var_os("BLESS").is_some() {
        // Renamed into place: another test reads it meanwhile.
        let new = path.with_extension("md.new");
        std::fs::write(&new, format!("{before}{BEGIN}{table}{END}{after}")).expect("the folder is writable");
        std::fs::rename(new, &path).expect("the documentation is writable");
        return;
    }
    assert_eq!(documented, table, "run `BLESS=1 cargo test -p workfile` and look at what changed");
}

#[test]
fn the_example_in_the_documentation_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/workload-file.md");
    let text = std::fs::read_to_string(path).expect("docs/workload-file.md exists");
    let examples: Vec<_> =
        text.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    assert!(!examples.is_empty());
    for example in examples {
        workfile::parse("example", example, Path::new("/"))
            .unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
}

#[test]
fn the_schema_is_strict_and_describes_every_key() {
    fn walk(schema: &serde_json::Value, path: &str, tables: &mut usize) {
        if let Some(properties) = schema.get("properties").and_then(|p| p.as_object()) {
            *tables += 1;
            assert_eq!(schema["additionalProperties"], false, "{path} lets unknown keys through");
            for (key, property) in properties {
                assert!(
                    property["description"].as_str().is_some_and(|d| !d.is_empty()),
                    "{path}.{key} says nothing"
                );
            }
        }
        if let Some(object) = schema.as_object() {
            object.iter().for_each(|(key, value)| walk(value, &format!("{path}/{key}"), tables));
        }
        assert_ne!(schema, "null", "{path} allows null, which TOML has not");
    }
    let schema = workfile::schema();
    let mut tables = 0;
    walk(&schema, "", &mut tables);
    assert!(tables > 10, "{tables} tables");
    assert_eq!(schema["required"], serde_json::json!(["workload"]));
    assert_eq!(schema["$defs"]["Component"].get("required"), None);
}
