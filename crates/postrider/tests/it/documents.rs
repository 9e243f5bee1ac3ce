//! The references of the API: the OpenAPI document, and the one for people, name every route and every code.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use postrider_service::ErrorCode;
use serde_json::Value;

use crate::support::{TestServer, http};

fn place(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(place(path)).unwrap()
}

#[test]
fn the_reference_of_the_api_has_every_route_and_every_code() {
    let reference = read("docs/api.md");
    let document: Value = serde_json::from_str(postrider_api::openapi_json()).unwrap();
    let routes: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert!(routes.len() > 30, "{routes:?}");
    for route in routes {
        let named = reference.contains(&format!("{route}`"));
        assert!(named, "docs/api.md does not have {route}");
    }
    for code in ErrorCode::ALL {
        let named = reference.contains(&format!("`{}`", code.as_str()));
        assert!(
            named,
            "docs/api.md does not have the code {}",
            code.as_str()
        );
    }
}

/// The names of all that a schema has, at any depth.
fn fields(schema: &Value, schemas: &Value, seen: &mut BTreeSet<String>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    match schema {
        Value::Array(parts) => {
            for part in parts {
                names.extend(fields(part, schemas, seen));
            }
        }
        Value::Object(object) => {
            if let Some(to) = object.get("$ref").and_then(Value::as_str) {
                let name = to.rsplit('/').next().unwrap();
                if seen.insert(name.to_owned()) {
                    names.extend(fields(&schemas[name], schemas, seen));
                }
            }
            let own = object.get("properties").and_then(Value::as_object);
            for (name, part) in own.into_iter().flatten() {
                names.insert(name.clone());
                names.extend(fields(part, schemas, seen));
            }
            for part in ["items", "additionalProperties", "oneOf", "anyOf", "allOf"] {
                if let Some(part) = object.get(part) {
                    names.extend(fields(part, schemas, seen));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    names
}

/// The words of code in a part of the reference, but for routes and for the tables of answers, whose fields nobody sends.
fn words<'r>(part: &[&'r str]) -> HashSet<&'r str> {
    let mut words = HashSet::new();
    let mut is_answer = false;
    for line in part {
        is_answer = line.starts_with("| answer field") || (is_answer && line.starts_with('|'));
        if is_answer {
            continue;
        }
        let code = line.split('`').skip(1).step_by(2);
        for code in code.filter(|code| !code.contains('/')) {
            words.extend(code.split(|letter: char| !letter.is_ascii_alphanumeric()));
        }
    }
    words
}

/// The fields are beside the row of their route, or in a part that the row points to.
#[test]
fn the_reference_of_the_api_has_every_field_that_a_request_may_have() {
    let reference = read("docs/api.md");
    // Each under the name that links have for it.
    let mut parts: Vec<(String, Vec<&str>)> = Vec::new();
    for line in reference.lines() {
        let heading = line.strip_prefix("## ");
        if let Some(heading) = heading.or_else(|| line.strip_prefix("### ")) {
            let name = heading.to_lowercase().replace(' ', "-");
            parts.push((name, Vec::new()));
        } else if let Some((_, lines)) = parts.last_mut() {
            lines.push(line);
        }
    }
    let document: Value = serde_json::from_str(postrider_api::openapi_json()).unwrap();
    let schemas = &document["components"]["schemas"];
    let mut bodies = 0;
    for (route, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let Some(body) = operation.get("requestBody") else {
                continue;
            };
            bodies += 1;
            let schema = &body["content"]["application/json"]["schema"];
            let fields = fields(schema, schemas, &mut BTreeSet::new());
            assert!(!fields.is_empty(), "{method} {route}: {body}");
            let (method, place) = (method.to_uppercase(), format!(" {route}`"));
            let found = parts.iter().find_map(|(_, lines)| {
                let mut rows = lines.iter().filter(|line| line.starts_with("| `"));
                let row = rows.find(|row| row.contains(&place) && row.contains(&method));
                Some((*row?, lines))
            });
            let (row, beside) =
                found.unwrap_or_else(|| panic!("docs/api.md has no row of {method} {route}"));
            let mut named = words(beside);
            for link in row.split("](#").skip(1) {
                let to = link.split(')').next().unwrap();
                let target = parts.iter().find(|(name, _)| name == to);
                let (_, lines) = target.unwrap_or_else(|| panic!("docs/api.md has no part {to}"));
                named.extend(words(lines));
            }
            let missing: Vec<&String> = fields
                .iter()
                .filter(|name| !named.contains(name.as_str()))
                .collect();
            assert!(
                missing.is_empty(),
                "docs/api.md does not have {missing:?}, which {method} {route} takes"
            );
        }
    }
    assert!(bodies > 20, "{bodies}");
}

/// Compares a page that is made from the code with the one in the repository; `UPDATE_DOCS=1` writes it anew.
fn must_be_in_the_repository(path: &str, made: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(place(path), made).unwrap();
    }
    assert!(
        made == read(path),
        "the code and {path} differ; look at what UPDATE_DOCS=1 makes of it"
    );
}

#[test]
fn the_openapi_document_is_the_one_in_the_repository() {
    let made = format!("{}\n", postrider_api::openapi_json());
    must_be_in_the_repository("docs/openapi.json", &made);
}

/// What the document says a code is answered with is what the page for people says.
#[test]
fn the_table_of_problem_codes_has_their_statuses() {
    let document: Value = serde_json::from_str(postrider_api::openapi_json()).unwrap();
    let responses = document["components"]["responses"].as_object().unwrap();
    let reference = read("docs/api.md");
    let (_, table) = reference.split_once("## Problem codes").unwrap();
    for code in ErrorCode::ALL {
        let row = format!("| `{}` | ", code.as_str());
        let (_, row) = table.split_once(&row).unwrap();
        let status = row.split(' ').next().unwrap();
        let documented = responses.get(&format!("Refused{status}"));
        let codes = documented.and_then(|response| response["description"].as_str());
        let is_internal = code == ErrorCode::Internal && status == "500";
        let named = codes.is_some_and(|codes| codes.contains(&format!("`{}`", code.as_str())));
        assert!(named || is_internal, "{} is not {status}", code.as_str());
    }
}

#[test]
fn the_page_of_commands_is_what_help_says() {
    use std::fmt::Write as _;

    fn pages(command: &mut clap::Command, path: &str, page: &mut String) {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        let mut shown = command.clone().bin_name(&path);
        write!(page, "\n## {path}\n\n```\n{}\n```\n", plain(&mut shown)).unwrap();
        for sub in command.get_subcommands_mut() {
            if sub.get_name() != "help" {
                pages(sub, &path, page);
            }
        }
    }

    fn plain(command: &mut clap::Command) -> String {
        let text = command.render_long_help().to_string();
        let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
        lines.join("\n")
    }

    let mut page = String::from(
        "# The command line\n\nWhat `--help` says of every command; made from the code.\n",
    );
    let mut command = <postrider::cli::Cli as clap::CommandFactory>::command().term_width(100);
    pages(&mut command, "", &mut page);
    must_be_in_the_repository("docs/cli.md", &page);
}

#[test]
fn the_page_of_configuration_keys_has_every_key() {
    use std::fmt::Write as _;

    fn form(schema: &Value, definitions: &Value) -> String {
        if let Some(to) = schema["$ref"].as_str() {
            let name = to.rsplit('/').next().unwrap();
            let values = definitions[name]["enum"].as_array();
            let words = values.map(|values| {
                let words: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                format!("`{}`", words.join("`, `"))
            });
            return words.unwrap_or_else(|| "a table, below".to_owned());
        }
        if let Some(one) = schema["oneOf"].as_array() {
            let mut known = one.iter().filter(|one| one["type"] != "null");
            return form(known.next().unwrap(), definitions);
        }
        let types = match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            one => vec![one.as_str().unwrap_or_default()],
        };
        match *types.first().unwrap() {
            "string" => "text".to_owned(),
            "integer" => "number".to_owned(),
            "boolean" => "true or false".to_owned(),
            "array" => format!(
                "list of {}",
                match form(&schema["items"], definitions).as_str() {
                    "a table, below" => "tables, below".to_owned(),
                    "text" => "texts".to_owned(),
                    "number" => "numbers".to_owned(),
                    words => format!("words among {words}"),
                }
            ),
            other => other.to_owned(),
        }
    }

    fn table(name: &str, schema: &Value, definitions: &Value, page: &mut String) {
        writeln!(
            page,
            "\n## {name}\n\n| key | form | default | meaning |\n|---|---|---|---|"
        )
        .unwrap();
        for (key, schema) in schema["properties"].as_object().unwrap() {
            let default = match &schema["default"] {
                Value::Null => "none".to_owned(),
                Value::Array(items) if items.is_empty() => "`[]`".to_owned(),
                Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            };
            let meaning = schema["description"]
                .as_str()
                .or_else(|| schema["oneOf"][0]["description"].as_str());
            let meaning = meaning.unwrap_or_else(|| panic!("{name}.{key} has no description"));
            let form = form(schema, definitions);
            writeln!(
                page,
                "| `{key}` | {form} | {default} | {} |",
                meaning.replace('\n', " ")
            )
            .unwrap();
        }
    }

    let schema = postrider::config::schema();
    let definitions = &schema["$defs"];
    let mut page = String::from(
        "# Configuration\n\nEvery key of the file that `postrider serve --config` takes (TOML), made from the code. Each can also be \
         a variable: `POSTRIDER__SECTION__KEY`, a list with a comma between its parts (`a,b`); tables need a file. `postrider config check` tells all mistakes of a file with their lines, and \
         `postrider config schema` prints a JSON Schema of it for editors.\n",
    );
    for (section, part) in schema["properties"].as_object().unwrap() {
        let name = part["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        table(
            &format!("[{section}]"),
            &definitions[name],
            definitions,
            &mut page,
        );
    }
    table(
        "[[egress.regions]]",
        &definitions["RegionConfig"],
        definitions,
        &mut page,
    );
    table(
        "[notifications.smtp]",
        &definitions["SmtpConfig"],
        definitions,
        &mut page,
    );
    must_be_in_the_repository("docs/configuration.md", &page);
}

#[tokio::test]
async fn the_openapi_document_is_served_without_a_key() {
    let server = TestServer::start().await;
    let reply = http(server.address, "GET", "/v1/openapi.json", &[], "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.text, postrider_api::openapi_json());
}
