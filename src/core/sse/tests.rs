use proptest::prelude::*;

use super::*;

/// Every piece of a stream that comes in these chunks.
fn pieces(chunks: &[&[u8]], bytes_max: usize) -> Vec<Piece<'static>> {
    let mut splitter = Splitter::new(bytes_max);
    let mut found = Vec::new();
    for chunk in chunks {
        let mut input = *chunk;
        while let Some(piece) = splitter.next(&mut input) {
            found.push(match piece {
                Piece::Whole(raw) => Piece::Whole(Cow::Owned(raw.into_owned())),
                Piece::TooLong(raw) => Piece::TooLong(Cow::Owned(raw.into_owned())),
                Piece::Gone => Piece::Gone,
            });
        }
        assert!(input.is_empty(), "everything was taken");
        assert!(splitter.held_bytes() <= bytes_max);
    }
    found.extend(splitter.end());
    found
}

fn texts(stream: &str) -> Vec<String> {
    let raw = |piece: Piece<'static>| match piece {
        Piece::Whole(raw) => String::from_utf8(raw.into_owned()).unwrap(),
        Piece::Gone | Piece::TooLong(_) => panic!("an event was lost"),
    };
    pieces(&[stream.as_bytes()], 1 << 20).into_iter().map(raw).collect()
}

fn data(raw: &str) -> Option<String> {
    let event = Event::read(raw.as_bytes(), true).unwrap();
    event.data.map(|data| String::from_utf8(data.into_owned()).unwrap())
}

fn is_odd(raw: &[u8]) -> bool {
    Event::read(raw, false) == Err(Odd)
}

#[test]
fn an_event_ends_with_an_empty_line_in_any_style() {
    assert_eq!(texts("data: a\n\ndata: b\n\n"), ["data: a\n\n", "data: b\n\n"]);
    assert_eq!(texts("data: a\r\n\r\ndata: b\r\n\r\n"), ["data: a\r\n\r", "\n", "data: b\r\n\r", "\n"]);
    assert_eq!(texts("data: a\r\rdata: b\r\r"), ["data: a\r\r", "data: b\r\r"]);
    assert_eq!(texts("data: a\r\n\ndata: b\n\r\n"), ["data: a\r\n\n", "data: b\n\r", "\n"]);
    assert_eq!(texts("\n\n\ndata: a\n\n\n"), ["\n", "\n", "\n", "data: a\n\n", "\n"]);
}

#[test]
fn a_comment_is_not_held_until_an_empty_line() {
    assert_eq!(texts(": ping\n"), [": ping\n"]);
    assert_eq!(texts(":\r\n:\r\ndata: a\n: in it\n\n"), [":\r", "\n", ":\r", "\n", "data: a\n: in it\n\n"]);
}

#[test]
fn what_is_left_at_the_end_is_a_piece() {
    assert_eq!(texts("data: a\n\ndata: b\n"), ["data: a\n\n", "data: b\n"]);
    assert_eq!(texts("data: b"), ["data: b"]);
    assert!(texts("").is_empty());
}

#[test]
fn data_is_read_as_the_standard_says() {
    for (raw, expected) in [
        ("data: a\n\n", "a"),
        ("data:a\n\n", "a"),
        ("data:  a \n\n", " a "),
        ("data: a\ndata: b\ndata\ndata:c\n\n", "a\nb\n\nc"),
        ("data: a\rdata: b\r\r", "a\nb"),
        ("id: 1\nevent: message\nretry: 3\nx: y\n: z\nodd line\ndata: a:b\n\n", "a:b"),
        ("\u{feff}data: a\n\n", "a"),
        ("data:\n\n", ""),
    ] {
        assert_eq!(data(raw).as_deref(), Some(expected), "{raw:?}");
    }
    for raw in ["id: 1\n\n", "\n", ": data: x\n", "id\n", "event: data\n\n"] {
        assert_eq!(data(raw), None, "{raw:?}");
    }
}

#[test]
fn data_that_only_some_readers_would_see_is_odd() {
    for raw in [
        &b"Data: x\n\n"[..],
        b" data: x\n\n",
        b"data : x\n\n",
        b"\xef\xbb\xbfdata: x\n\n",
        b"\0data: x\n\n",
        b": a\x0bdata: x\n\n",
        b": a\x0cdata: x\n\n",
        b"id: a\x1cdata: x\n\n",
        b"id: a\x1ddata: x\n\n",
        b"x: a\x1edata: x\n\n",
        b": a\xc2\x85data: x\n\n",
        b": a\xe2\x80\xa8data: x\n\n",
        b": a\xe2\x80\xa9data: x\n\n",
        b": a\x85data: x\n\n",
    ] {
        assert!(is_odd(raw), "{}", raw.escape_ascii());
    }
    let harmless = [&b"metadata: x\n\n"[..], b": \xc3\xa9\n\n", b"data: a\xe2\x80\xa8b\n\n", b"data: \xff\n\n"];
    assert!(harmless.iter().all(|raw| !is_odd(raw)));
}

#[test]
fn types_other_than_message_are_told() {
    let is_message = |raw: &str| Event::read(raw.as_bytes(), true).unwrap().is_message;
    assert!(is_message("data: a\n\n") && is_message("event: message\ndata: a\n\n") && is_message("event:\n\n"));
    assert!(!is_message("event: endpoint\ndata: /x\n\n"));
    assert!(is_message("event: x\nevent: message\n\n"), "the last one counts");
}

#[test]
fn a_changed_event_keeps_its_other_lines_and_its_style() {
    let replace =
        |raw: &str| String::from_utf8(Event::read(raw.as_bytes(), true).unwrap().replace("data: ", "{}")).unwrap();
    assert_eq!(
        replace("event: message\nid: 1\ndata: a\ndata: b\nretry: 5\n\n"),
        "event: message\nid: 1\ndata: {}\nretry: 5\n\n"
    );
    assert_eq!(replace("data: a\r\nid: 1\r\ndata: b\r\n\r"), "data: {}\r\nid: 1\r\n\r");
    assert_eq!(replace("\u{feff}data: a\r\r"), "\u{feff}data: {}\r\r");
    assert_eq!(replace("data: a"), "data: {}");
    assert_eq!(write("data: ", "{}", b"id: 1\r\ndata: x\r\n"), b"data: {}\r\n\r\n");
    assert_eq!(write("data: ", "{}", b"id: 1\rdata: x"), b"data: {}\r\r");
    assert_eq!(write("data: ", "{}", b"id: 1"), b"data: {}\n\n");
}

#[test]
fn an_event_at_the_limit_passes_and_one_above_is_lost() {
    let event = b"data: 0123\n\n";
    let lost = Piece::TooLong(Cow::Borrowed(&event[..11]));
    let whole = Piece::Whole(Cow::Borrowed(&event[..]));
    for cuts in 0..=event.len() {
        let (a, b) = event.split_at(cuts);
        assert_eq!(pieces(&[a, b], 12), std::slice::from_ref(&whole));
        let found = pieces(&[a, b, b": next\n"], 11);
        let gone = found.iter().filter(|piece| **piece != Piece::Gone).cloned().collect::<Vec<_>>();
        assert_eq!(gone, [lost.clone(), Piece::Whole(Cow::Borrowed(b": next\n"))], "cut at {cuts}");
    }
}

#[test]
fn an_event_without_end_is_not_kept() {
    let mut splitter = Splitter::new(100);
    let mut lost = 0;
    for _ in 0..1_000 {
        let mut input = &b"data: xxxxxxxxxxxxxxxxxxxx\n"[..];
        while let Some(piece) = splitter.next(&mut input) {
            assert!(matches!(piece, Piece::TooLong(_)));
            lost += 1;
        }
        assert!(splitter.held_bytes() <= 100);
    }
    assert_eq!((lost, splitter.end()), (1, None));
}

#[test]
fn an_event_that_is_given_up_is_gone_to_its_end() {
    let mut splitter = Splitter::new(100);
    assert!(!splitter.give_up(), "nothing is under way");
    assert_eq!(splitter.next(&mut &b"data: a\ndata"[..]), None);
    assert!(splitter.give_up() && !splitter.give_up());
    assert_eq!(splitter.held_bytes(), 0);
    let mut input = &b": b\n\ndata: c\n\n"[..];
    assert_eq!(splitter.next(&mut input), Some(Piece::Gone));
    assert_eq!(splitter.next(&mut input), Some(Piece::Whole(Cow::Borrowed(b"data: c\n\n"))));
}

#[test]
fn byte_by_byte_costs_no_more_than_once() {
    // A quadratic splitter would look at 5 * 10^11 bytes.
    let mut splitter = Splitter::new(1 << 20);
    for _ in 0..1_000_000 {
        assert_eq!(splitter.next(&mut &b"x"[..]), None);
    }
    assert_eq!(splitter.held_bytes(), 1_000_000);
}

proptest! {
    #[test]
    fn pieces_do_not_depend_on_chunks_and_hold_every_byte(
        stream in proptest::collection::vec(prop_oneof![
            Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(b' '), Just(0xef), any::<u8>()
        ], 0..60),
        cuts in proptest::collection::vec(0..60_usize, 0..5),
    ) {
        let whole = pieces(&[&stream], 1 << 20);
        let bytes: Vec<u8> = whole.iter().flat_map(|piece| match piece {
            Piece::Whole(raw) => raw.to_vec(),
            Piece::Gone | Piece::TooLong(_) => panic!("an event was lost"),
        }).collect();
        prop_assert_eq!(&bytes, &stream);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        prop_assert_eq!(pieces(&chunks, 1 << 20), whole);
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        let kept = |pieces: Vec<Piece<'static>>| pieces.into_iter().filter(|piece| *piece != Piece::Gone).collect::<Vec<_>>();
        prop_assert_eq!(kept(pieces(&single, 9)), kept(pieces(&[&stream], 9)));
    }

    #[test]
    fn line_ends_are_found_as_one_by_one(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let slow = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(bytes.len());
        prop_assert_eq!(line_prefix(&bytes), slow);
    }
}
