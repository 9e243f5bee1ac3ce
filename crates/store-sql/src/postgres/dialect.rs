//! What of our statements is SQLite's alone, in PostgreSQL's words.

/// Numbers the values (`?1` is `$1`, and `?` the next one), and replaces what SQLite says in another way: its function
/// for the keys in a JSON list, its words that keep the order of a join, and the plus that keeps an index away.
pub(super) fn postgres(sql: &str) -> String {
    let sql = sql
        .replace("json_each(", "keys_of(")
        .replace(" cross join ", " join ");
    let mut text = String::with_capacity(sql.len() + 16);
    let mut rest = sql.chars().peekable();
    let mut next = 1;
    while let Some(character) = rest.next() {
        match character {
            '?' => {
                text.push('$');
                if !rest.peek().is_some_and(char::is_ascii_digit) {
                    text.push_str(&next.to_string());
                    next += 1;
                }
            }
            '+' if rest.peek().is_some_and(char::is_ascii_alphabetic) => {}
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::postgres;

    #[test]
    fn values_are_numbered_and_hints_are_left_out() {
        assert_eq!(
            postgres("select a + 1 from t cross join u on u.id = t.id where +b = ? and c < ?"),
            "select a + 1 from t join u on u.id = t.id where b = $1 and c < $2"
        );
        assert_eq!(
            postgres("delete from t where id in (select value from json_each(?2)) and a = ?1"),
            "delete from t where id in (select value from keys_of($2)) and a = $1"
        );
    }
}
