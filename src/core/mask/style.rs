//! What stands in the place of a value.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::MaskKey;
use super::rule::{Detector, Style};

/// Characters of a value from which `partial` may keep the last four.
const PARTIAL_CHARS_MIN: usize = 12;

/// The replacement of a value that a detector found, or, without one, another rule.
pub(crate) fn replacement(style: &Style, name: &str, found: Option<Detector>, value: &str, key: &MaskKey) -> String {
    let name = found.map_or(name, |found| found.name());
    match style {
        Style::Fixed(Some(text)) => text.to_string(),
        Style::Fixed(None) => format!("[{name}]"),
        Style::Hash => format!("[{name}:{}]", digest(&canonical(found, value), key)),
        Style::Partial => partial(found, value).unwrap_or_else(|| format!("[{name}]")),
    }
}

/// What `partial` keeps; `None` where nothing of the value tells little enough.
fn partial(found: Option<Detector>, value: &str) -> Option<String> {
    match found {
        Some(Detector::Email) => {
            let domain = value.rsplit_once('@').or_else(|| value.rsplit_once("%40")).map(|(_, domain)| domain)?;
            Some(format!("***@{domain}"))
        }
        Some(Detector::PaymentCard | Detector::UsSsn) => Some(format!("****{}", last(&digits(value), 4))),
        Some(Detector::Phone) => Some(format!("***{}", last(&digits(value), 2))),
        Some(Detector::Iban) => {
            let plain = canonical(found, value);
            Some(format!("{}****{}", plain.get(..2)?, last(&plain, 4)))
        }
        Some(Detector::IpAddress) => match value.parse::<core::net::IpAddr>().ok()? {
            core::net::IpAddr::V4(address) => {
                let [a, b, ..] = address.octets();
                Some(format!("{a}.{b}.*.*"))
            }
            core::net::IpAddr::V6(address) => {
                let [a, b, ..] = address.segments();
                Some(format!("{a:x}:{b:x}:*"))
            }
        },
        Some(Detector::AwsKey) => value.get(..4).filter(|_| value.len() == 20).map(|kind| format!("{kind}****")),
        Some(Detector::GithubToken | Detector::SlackToken | Detector::StripeKey) => {
            let kind = value.rfind(['_', '-']).and_then(|_| value.find(['_', '-']))?;
            Some(format!("{}****", value.get(..=kind)?))
        }
        Some(Detector::GcpKey | Detector::HighEntropy | Detector::Jwt | Detector::PrivateKey) => None,
        None => (value.chars().count() >= PARTIAL_CHARS_MIN).then(|| format!("****{}", last(value, 4))),
    }
}

/// One spelling for values that mean the same, so that their digests are equal.
fn canonical(found: Option<Detector>, value: &str) -> String {
    match found {
        Some(Detector::Email) => value.replace("%40", "@").to_lowercase(),
        Some(Detector::PaymentCard | Detector::UsSsn | Detector::Phone) => digits(value),
        Some(Detector::Iban) => {
            value.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
        }
        Some(Detector::IpAddress) => {
            value.parse::<core::net::IpAddr>().map_or_else(|_| value.to_owned(), |address| address.to_string())
        }
        Some(
            Detector::AwsKey
            | Detector::GcpKey
            | Detector::GithubToken
            | Detector::HighEntropy
            | Detector::Jwt
            | Detector::PrivateKey
            | Detector::SlackToken
            | Detector::StripeKey,
        )
        | None => value.to_owned(),
    }
}

fn digits(value: &str) -> String {
    value.chars().filter(char::is_ascii_digit).collect()
}

fn last(value: &str, count: usize) -> &str {
    let start = value.char_indices().rev().nth(count.saturating_sub(1)).map_or(0, |(at, _)| at);
    value.get(start..).unwrap_or_default()
}

/// 48 bits of HMAC-SHA-256: enough to tell values apart, and not to be tried out without the key.
fn digest(value: &str, key: &MaskKey) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&*key.0) else { return "?".to_owned() };
    mac.update(b"mcp-authz mask\0");
    mac.update(value.as_bytes());
    let mut out = String::with_capacity(12);
    for byte in mac.finalize().into_bytes().iter().take(6) {
        // Writing to a string cannot fail.
        let _ok = write!(out, "{byte:02x}").is_ok();
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn key(byte: u8) -> MaskKey {
        MaskKey(Arc::new([byte; 32]))
    }

    #[test]
    fn what_partial_keeps() {
        for (found, value, expected) in [
            (Some(Detector::Email), "bob.smith@example.com", "***@example.com"),
            (Some(Detector::PaymentCard), "4111 1111 1111 1234", "****1234"),
            (Some(Detector::Iban), "DE89 3704 0044 0532 0130 00", "DE****3000"),
            (Some(Detector::UsSsn), "123-45-6789", "****6789"),
            (Some(Detector::Phone), "+49 30 1234567", "***67"),
            (Some(Detector::IpAddress), "192.0.2.17", "192.0.*.*"),
            (Some(Detector::IpAddress), "2001:db8::17", "2001:db8:*"),
            (Some(Detector::AwsKey), "AKIAIOSFODNN7EXAMPLE", "AKIA****"),
            (Some(Detector::GithubToken), "ghp_abcdef", "ghp_****"),
            (Some(Detector::StripeKey), "sk_live_abc", "sk_****"),
            (Some(Detector::SlackToken), "xoxb-1-2", "xoxb-****"),
            (Some(Detector::Jwt), "eyJ.eyJ.x", "[jwt]"),
            (Some(Detector::PrivateKey), "-----BEGIN", "[private_key]"),
            (None, "ACME-1234567", "****4567"),
            (None, "ACME-123456", "[customer]"),
            (None, "éééééééééééé", "****éééé"),
        ] {
            assert_eq!(replacement(&Style::Partial, "customer", found, value, &key(1)), expected, "{value}");
        }
    }

    #[test]
    fn equal_values_have_equal_digests_under_one_key_only() {
        let hash = |found, value: &str, byte| replacement(&Style::Hash, "x", found, value, &key(byte));
        let card = Some(Detector::PaymentCard);
        assert_eq!(hash(card, "4111 1111 1111 1111", 1), hash(card, "4111-1111-1111-1111", 1));
        assert_eq!(
            hash(Some(Detector::Email), "Bob@Example.com", 1),
            hash(Some(Detector::Email), "bob@example.com", 1)
        );
        assert_ne!(hash(card, "4111111111111111", 1), hash(card, "4111111111111111", 2));
        assert_ne!(hash(None, "a", 1), hash(None, "b", 1));
        let text = hash(None, "a", 1);
        assert!(text.starts_with("[x:") && text.len() == 16, "{text}");
    }

    #[test]
    fn a_fixed_text_is_the_authors_or_the_name() {
        let fixed = |text: Option<&str>| {
            replacement(&Style::Fixed(text.map(Box::from)), "n", Some(Detector::Email), "a@b.cd", &key(1))
        };
        assert_eq!((fixed(None), fixed(Some("-"))), ("[email]".to_owned(), "-".to_owned()));
    }
}
