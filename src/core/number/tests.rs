use proptest::prelude::*;

use super::*;

fn decimal(text: &str) -> Decimal {
    Decimal::parse(text).unwrap_or_else(|| panic!("{text} does not parse"))
}

#[test]
fn numbers_that_are_written_differently_are_equal() {
    for (a, b) in [
        ("-0", "0"),
        ("-0.0e5", "0"),
        ("1.0", "1"),
        ("1e2", "100"),
        ("1E+02", "100"),
        ("0.5e1", "5"),
        ("12.50", "12.5"),
        ("100e-2", "1"),
        ("0.001", "1e-3"),
        ("0e9999", "0"),
        ("-1.50", "-15e-1"),
        ("1e000000000000000002", "100"),
    ] {
        assert_eq!(decimal(a), decimal(b), "{a} {b}");
    }
}

#[test]
fn numbers_are_ordered_exactly() {
    let ascending = [
        "-1e300",
        "-100",
        "-99.9",
        "-1",
        "-0.5",
        "-1e-9",
        "0",
        "1e-9",
        "0.1",
        "0.10000000000000000001",
        "0.5",
        "1",
        "1.0000000000000000000001",
        "9",
        "10",
        "1000",
        "1000.01",
        "9007199254740992",
        "9007199254740993",
        "9007199254740993.5",
        "9007199254740994",
        "1e300",
    ];
    for pair in ascending.windows(2) {
        assert!(decimal(pair[0]) < decimal(pair[1]), "{pair:?}");
        assert!(decimal(pair[1]) > decimal(pair[0]), "{pair:?}");
        assert_ne!(decimal(pair[0]), decimal(pair[1]), "{pair:?}");
    }
}

#[test]
fn hostile_literals_do_not_parse() {
    let digits = "9".repeat(10_000);
    for text in [digits.as_str(), "1e999999999999999999999", "1e-999999999999999999999", "1e10000", &"1".repeat(65)] {
        assert!(Decimal::parse(text).is_none(), "{}", text.len());
    }
    assert!(Decimal::parse(&"1".repeat(LITERAL_CHARS_MAX)).is_some());
    assert!(Decimal::parse("1e9999").is_some());
}

#[test]
fn what_is_no_json_number_does_not_parse() {
    for text in [
        "", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "e5", "1e5e5", "1.5.5", "0x10", "1_000", "NaN",
        "Infinity", "inf", " 1", "1 ", "1e1.5", "--1", "1e--1", "١",
    ] {
        assert!(Decimal::parse(text).is_none(), "{text}");
    }
}

#[test]
fn numbers_that_a_server_reads_as_infinity_or_zero_do_not_compare() {
    for text in ["1e400", "-1e400", "1e308", "1e-400", "0.1e-400"] {
        assert!(!decimal(text).is_comparable(), "{text}");
    }
    for text in ["1e307", "-9.99e307", "1e300", "0", "0e9999", "1e-307", "5"] {
        assert!(decimal(text).is_comparable(), "{text}");
    }
}

#[test]
fn amounts_are_whole_and_round_up() {
    for (text, expected) in [
        ("0", 0),
        ("-0", 0),
        ("-0.0", 0),
        ("-0e5", 0),
        ("5", 5),
        ("5.0", 5),
        ("0.1", 1),
        ("1e-400", 1),
        ("0.999", 1),
        ("19.991", 20),
        ("1e2", 100),
        ("1048576", 1_048_576),
        ("4503599627370496", AMOUNT_MAX),
        ("4503599627370495.5", AMOUNT_MAX),
        ("4503599627370496.0", AMOUNT_MAX),
        ("45035996273704960e-1", AMOUNT_MAX),
    ] {
        assert_eq!(amount(text), Ok(expected), "{text}");
    }
}

#[test]
fn amounts_below_zero_and_above_the_limit_are_refused() {
    for (text, expected) in [
        ("-1", AmountError::Negative),
        ("-1e-9", AmountError::Negative),
        ("-1e300", AmountError::Negative),
        ("4503599627370497", AmountError::TooLarge),
        ("4503599627370496.1", AmountError::TooLarge),
        ("9999999999999999", AmountError::TooLarge),
        ("10000000000000000", AmountError::TooLarge),
        ("1e300", AmountError::TooLarge),
        ("1e400", AmountError::TooLarge),
        ("1e99999", AmountError::Unreadable),
        ("five", AmountError::Unreadable),
    ] {
        assert_eq!(amount(text), Err(expected), "{text}");
    }
}

#[test]
fn the_lenient_text_is_the_one_that_go_prints() {
    for (text, expected) in [
        ("5.0", "5"),
        ("1000000", "1e+06"),
        ("100000", "100000"),
        ("123456", "123456"),
        ("1234567", "1.234567e+06"),
        ("0.1", "0.1"),
        ("1.50", "1.5"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("-2.5", "-2.5"),
        ("0", "0"),
        ("1e100", "1e+100"),
        ("12.25", "12.25"),
        ("-0", "0"),
        ("123456.75", "123456.75"),
    ] {
        assert_eq!(decimal(text).go_text(), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn integers_are_ordered_as_integers(a in any::<i64>(), b in any::<i64>()) {
        prop_assert_eq!(decimal(&a.to_string()).cmp(&decimal(&b.to_string())), a.cmp(&b));
    }

    #[test]
    fn shifting_the_point_changes_nothing(digits in 0u64..=u64::MAX, places in 0u32..20) {
        let shifted = format!("{digits}{}e-{places}", "0".repeat(usize::try_from(places).unwrap()));
        prop_assert_eq!(decimal(&shifted), decimal(&digits.to_string()));
    }

    #[test]
    fn an_amount_is_never_below_the_number(whole in 0u64..(AMOUNT_MAX - 1), fraction in "[0-9]{1,20}") {
        let text = format!("{whole}.{fraction}");
        let expected = if fraction.bytes().all(|b| b == b'0') { whole } else { whole.saturating_add(1) };
        prop_assert_eq!(amount(&text), Ok(expected));
    }

    #[test]
    fn no_text_panics(text in ".{0,80}") {
        if let Some(number) = Decimal::parse(&text) {
            prop_assert!(number.to_amount().is_ok_and(|amount| amount <= AMOUNT_MAX) || number.to_amount().is_err());
            prop_assert!(!number.go_text().is_empty());
        }
    }
}

#[test]
fn units_of_decimal_places_are_exact_or_none() {
    let units = |text: &str, scale| Decimal::parse(text).unwrap().to_units(scale, Rounding::Refused);
    for (text, scale, expected) in [
        ("5", 0, Ok(5)),
        ("5.0", 0, Ok(5)),
        ("5.5", 0, Err(AmountError::TooFine)),
        ("5.5", 1, Ok(55)),
        ("5.55", 1, Err(AmountError::TooFine)),
        ("0.000000001", 9, Ok(1)),
        ("0.0000000001", 9, Err(AmountError::TooFine)),
        ("1e-2", 2, Ok(1)),
        ("1e-400", 9, Err(AmountError::TooFine)),
        ("0e-400", 9, Ok(0)),
        ("-0.00", 2, Ok(0)),
        ("-0.01", 2, Err(AmountError::Negative)),
        ("45035996273704.96", 2, Ok(AMOUNT_MAX)),
        ("45035996273704.97", 2, Err(AmountError::TooLarge)),
        ("4503599627370496", 0, Ok(AMOUNT_MAX)),
        ("4503599.627370496", 9, Ok(AMOUNT_MAX)),
        ("1e16", 0, Err(AmountError::TooLarge)),
        ("1e400", 2, Err(AmountError::TooLarge)),
    ] {
        assert_eq!(units(text, scale), expected, "{text} {scale}");
    }
    let up = |text: &str, scale| Decimal::parse(text).unwrap().to_units(scale, Rounding::Up);
    assert_eq!((up("0.001", 2), up("1.001", 2), up("1e-400", 9)), (Ok(1), Ok(101), Ok(1)));
}

#[test]
fn units_are_told_as_people_write_them() {
    for (units, scale, text) in [
        (50_025, 2, "500.25"),
        (5, 2, "0.05"),
        (500, 2, "5"),
        (0, 9, "0"),
        (1, 9, "0.000000001"),
        (7, 0, "7"),
        (AMOUNT_MAX, 9, "4503599.627370496"),
    ] {
        assert_eq!(units_text(units, scale), text);
    }
    assert_eq!((unit(0), unit(2), unit(SCALE_MAX), unit(200)), (1, 100, 1_000_000_000, 1_000_000_000));
}

proptest! {
    #[test]
    fn what_is_told_reads_back(units in 0..=AMOUNT_MAX, scale in 0..=SCALE_MAX) {
        let number = Decimal::parse(&units_text(units, scale)).unwrap();
        prop_assert_eq!(number.to_units(scale, Rounding::Refused), Ok(units));
    }
}
