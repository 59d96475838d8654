//! The signature that the state of a view belongs to.
//!
//! Invariants: a state goes on under every text that says the same to SQL, whatever its comments, line
//! ends and capitals.

use arrow_schema::Schema;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::Asked;

/// Separates the query from the mode.
const MODE: &str = "\nmode ";
const COMPLETE: &str = "complete";
const EVENT_TIME: &str = "event time ";

/// The query, the layout of its state, and the engine that defines it.
pub(super) fn signature(
    sql: &str,
    asked: Asked,
    event_time: Option<&str>,
    state: &Schema,
) -> String {
    let fields: Vec<_> = state.fields().iter().map(|field| field.data_type().to_string()).collect();
    let event_time = event_time.map(|column| format!("\n{EVENT_TIME}{column}")).unwrap_or_default();
    let version = datafusion::DATAFUSION_VERSION;
    let mode = match asked {
        Asked::Changed => "update",
        Asked::All => COMPLETE,
        Asked::Closed => "append",
    };
    format!("{sql}{MODE}{mode}\n{}{event_time}\nDataFusion {version}", fields.join(", "))
}

/// True when a state that was kept under the one signature has a meaning under the other.
pub fn continues(kept: &str, own: &str) -> bool {
    let alike = || {
        let kept = kept.rsplit_once(MODE)?;
        let own = own.rsplit_once(MODE)?;
        Some(kept.1 == own.1 && words(kept.0)? == words(own.0)?)
    };
    kept == own || alike().unwrap_or(false)
}

/// True when what a view has closed under the one signature is closed under the other: both close windows of
/// the same time.
pub fn keeps_closed(kept: &str, own: &str) -> bool {
    let time = |signature: &str| -> Option<String> {
        let (_, rest) = signature.rsplit_once(MODE)?;
        let time = rest.lines().find_map(|line| line.strip_prefix(EVENT_TIME));
        time.filter(|_| !rest.starts_with(COMPLETE)).map(str::to_owned)
    };
    time(kept).is_some_and(|kept| time(own) == Some(kept))
}

/// The words of a query as SQL reads them.
fn words(sql: &str) -> Option<Vec<String>> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize().ok()?;
    let words = tokens.into_iter().filter_map(|token| match token {
        Token::Whitespace(_) => None,
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_ascii_lowercase()),
        token => Some(token.to_string()),
    });
    Some(words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_continued(kept: &str, own: &str) -> bool {
        let signed = |sql| signature(sql, Asked::Changed, None, &Schema::empty());
        continues(&signed(kept), &signed(own))
    }

    #[test]
    fn what_is_closed_is_of_one_time() {
        let signed = |sql, asked, time| signature(sql, asked, time, &Schema::empty());
        let kept = signed("select 1\nevent time u", Asked::Closed, Some("t"));
        assert!(keeps_closed(&kept, &signed("select 2", Asked::Changed, Some("t"))));
        for other in [
            signed("select 1", Asked::Closed, Some("u")),
            signed("select 1", Asked::Closed, None),
            signed("select 1", Asked::All, Some("t")),
        ] {
            assert!(!keeps_closed(&kept, &other) && !keeps_closed(&other, &kept), "{other}");
        }
    }

    #[test]
    fn comments_line_ends_and_capitals_change_nothing() {
        let query = "select k, sum(v) as s from output where k <> 'a  B' group by k";
        for other in [
            "-- totals\nselect k, sum(v) as s from output where k <> 'a  B' group by k",
            "SELECT K,\n  Sum( v ) AS s /* of all */ FROM output WHERE k<>'a  B' GROUP BY k",
        ] {
            assert!(is_continued(query, other), "{other}");
        }
        for other in [
            "select k, sum(v) as s from output where k <> 'a b' group by k",
            "select k, sum(v) as s from output where k <> 'a  b' group by k",
            "select k, sum(v) as s from output where \"K\" <> 'a  B' group by k",
            "select k, max(v) as s from output where k <> 'a  B' group by k",
            "select k, sum(v) as s from output where k <> 'a  B",
        ] {
            assert!(!is_continued(query, other), "{other}");
        }
    }
}
