//! What of our statements is SQLite's alone, in PostgreSQL's words.

use tokio_postgres::types::Type;

/// What stands behind such a plus and is no number: texts, of which no index that could be taken begins with one, and a word.
const NOT_NUMBERS: &[&str] = &["event_type", "type", "subject", "action", "exists"];

/// Numbers the values (`?1` is `$1`, and `?` the next one), and replaces what SQLite says in another way: its function
/// for the keys in a JSON list, its words that keep the order of a join, and the plus that keeps an index away: here a sum
/// does, which no index has.
pub(super) fn postgres(sql: &str) -> String {
    let sql = sql
        .replace("json_each(", "keys_of(")
        .replace(" cross join ", " join ");
    let mut text = String::with_capacity(sql.len() + 16);
    let mut rest = sql.chars().peekable();
    let mut next = 1;
    while let Some(character) = rest.next() {
        match character {
            // A statement has numbers for all of its values or for none.
            '?' => {
                text.push('$');
                if !rest.peek().is_some_and(char::is_ascii_digit) {
                    text.push_str(&next.to_string());
                    next += 1;
                }
            }
            // One that adds has a blank behind it.
            '+' if rest.peek().is_some_and(char::is_ascii_alphabetic) => {
                let is_name =
                    |letter: &char| letter.is_ascii_alphanumeric() || "_.".contains(*letter);
                let name: String = std::iter::from_fn(|| rest.next_if(is_name)).collect();
                if NOT_NUMBERS.contains(&name.as_str()) {
                    text.push_str(&name);
                } else {
                    text.push_str(&format!("({name} + 0)"));
                }
            }
            other => text.push(other),
        }
    }
    text
}

/// A statement of [`postgres`]'s that inserts or updates one row, for many rows at once: each value is then a list. None
/// for what is neither, and for values of other types than ours.
pub(super) fn of_many(sql: &str, types: &[Type]) -> Option<String> {
    let lists: Vec<&str> = types.iter().map(list_of).collect::<Option<_>>()?;
    let lists: Vec<String> = (1..)
        .zip(lists)
        .map(|(number, list)| format!("${number}::{list}"))
        .collect();
    let names: Vec<String> = (1..=types.len())
        .map(|number| format!("p{number}"))
        .collect();
    let rows = format!(
        " from unnest({}) as u({})",
        lists.join(", "),
        names.join(", ")
    );
    // Values are the only dollars that statements of ours have.
    let sql = sql.replace('$', "u.p");
    if sql.starts_with("insert into ") {
        let (into, values) = sql.split_once(" values (")?;
        let at = values.find("on conflict ").unwrap_or(values.len());
        let (values, conflict) = values.split_at(at);
        let values = values.trim_end().strip_suffix(')')?;
        let blank = if conflict.is_empty() { "" } else { " " };
        return Some(format!("{into} select {values}{rows}{blank}{conflict}"));
    }
    // The first one is the update's own: it sets values, and asks nothing inside.
    let (set, which) = sql.split_once(" where ")?;
    sql.starts_with("update ")
        .then(|| format!("{set}{rows} where {which}"))
}

fn list_of(kind: &Type) -> Option<&'static str> {
    if *kind == Type::INT8 {
        Some("bigint[]")
    } else if *kind == Type::TEXT {
        Some("text[]")
    } else if *kind == Type::BYTEA {
        Some("bytea[]")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::types::Type;

    use super::{of_many, postgres};

    #[test]
    fn one_row_becomes_many() {
        assert_eq!(
            of_many(
                "insert into t (a, b, c) values ($2, 0, $1)",
                &[Type::INT8, Type::TEXT]
            )
            .as_deref(),
            Some(
                "insert into t (a, b, c) select u.p2, 0, u.p1 from unnest($1::bigint[], $2::text[]) as u(p1, p2)"
            )
        );
        assert_eq!(
            of_many(
                "update t set a = coalesce($2, a) where id = $1",
                &[Type::INT8, Type::BYTEA]
            )
            .as_deref(),
            Some(
                "update t set a = coalesce(u.p2, a) from unnest($1::bigint[], $2::bytea[]) as u(p1, p2) where id = u.p1"
            )
        );
        assert_eq!(
            of_many(
                "insert into t (a, b) values ($1, $2)\n on conflict (a) do update set b = t.b + excluded.b",
                &[Type::INT8, Type::INT8]
            )
            .as_deref(),
            Some(
                "insert into t (a, b) select u.p1, u.p2 from unnest($1::bigint[], $2::bigint[]) as u(p1, p2) on conflict (a) do update set b = t.b + excluded.b"
            )
        );
        assert_eq!(of_many("delete from t where id = $1", &[Type::INT8]), None);
        assert_eq!(
            of_many("insert into t (a) values ($1)", &[Type::FLOAT8]),
            None
        );
    }

    #[test]
    fn values_are_numbered_and_hints_are_left_out() {
        assert_eq!(
            postgres("select a + 1 from t cross join u on u.id = t.id where +b = ? and c < ?"),
            "select a + 1 from t join u on u.id = t.id where (b + 0) = $1 and c < $2"
        );
        assert_eq!(
            postgres(
                "select 1 from d where +d.tenant_id = ? and +event_type = ? and +exists (select 1)"
            ),
            "select 1 from d where (d.tenant_id + 0) = $1 and event_type = $2 and exists (select 1)"
        );
        assert_eq!(
            postgres("delete from t where id in (select value from json_each(?2)) and a = ?1"),
            "delete from t where id in (select value from keys_of($2)) and a = $1"
        );
    }
}
