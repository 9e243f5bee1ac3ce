//! The reference of the API names every route and every code.

use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

#[test]
fn the_reference_of_the_api_has_every_route_and_every_code() {
    let reference = read("docs/api.md");
    let source = read("crates/api/src/native.rs");
    let quoted = source.split('"').skip(1).step_by(2);
    let routes: Vec<&str> = quoted.filter(|text| text.starts_with('/')).collect();
    assert!(routes.len() > 30, "{routes:?}");
    for route in routes {
        let named = reference.contains(&format!("{route}`"));
        assert!(named, "docs/api.md does not have {route}");
    }
    let source = read("crates/service/src/refusal.rs");
    let (_, codes) = source.split_once("pub enum ErrorCode {").unwrap();
    let (codes, _) = codes.split_once('}').unwrap();
    let codes = codes.lines().map(|line| line.trim().trim_end_matches(','));
    for code in codes.filter(|code| code.starts_with(char::is_uppercase)) {
        let mut snake = String::new();
        for letter in code.chars() {
            if letter.is_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        let named = reference.contains(&format!("`{snake}`"));
        assert!(named, "docs/api.md does not have the code {snake}");
    }
}
