use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SPAN: Target = Target { table: 2, version: 1 };

fn target(n: u8) -> Target {
    Target { table: n, version: 1 + u16::from(n) % 3 }
}

fn intents() -> impl Strategy<Value = Intent> {
    let entries = vec((0..u64::MAX >> 1, any::<u64>()).prop_map(|(ms, seq)| EntryId::new(ms, seq)), 2..40);
    let notes = vec(any::<(bool, u8, u32, u32)>(), 0..6);
    (entries, any::<bool>(), vec(any::<(u32, usize)>(), 0..4), notes).prop_map(|(entries, is_prefix, aside, notes)| {
        let count = entries.len() as u32;
        let verdict = |n: usize| Verdict::ALL[n % Verdict::ALL.len()];
        let mut withheld: Vec<_> = aside.into_iter().map(|(at, n)| (at % count, verdict(n))).collect();
        withheld.sort_by_key(|(at, _)| *at);
        withheld.dedup_by_key(|(at, _)| *at);
        let targets = (1..4).map(target).collect();
        let mut intent = Intent { entries, is_prefix, targets, withheld, ..Intent::default() };
        for (is_cut, n, a, b) in notes {
            let note = if is_cut {
                Note::Cut { target: target(n % 4), before: vec![1 + a % (count - 1), 1 + b % (count - 1)] }
            } else {
                Note::Refused(Refused { entry: a % count, target: target(n % 4), code: b })
            };
            intent.note(note).unwrap();
        }
        intent
    })
}

fn encoded_notes(intent: &Intent) -> Vec<Vec<u8>> {
    intent.notes().iter().map(Note::encode).collect()
}

proptest! {
    #[test]
    fn an_intent_reads_back(intent in intents()) {
        prop_assert_eq!(Intent::decode(&intent.encode(), encoded_notes(&intent)), Ok(intent));
    }

    #[test]
    fn a_cut_or_altered_intent_never_decodes_as_itself(intent in intents(), at in any::<usize>(), bit in 0..8_u32) {
        let (mut body, notes) = (intent.encode(), encoded_notes(&intent));
        for end in 0..body.len() {
            prop_assert!(Intent::decode(&body[..end], &notes).is_err());
        }
        let at = at % body.len();
        body[at] ^= 1_u8 << bit;
        if let Ok(other) = Intent::decode(&body, &notes) {
            prop_assert!(at == 1 || other != intent);
        }
    }

    #[test]
    fn a_truncated_note_is_an_error(intent in intents()) {
        for note in encoded_notes(&intent) {
            for end in 0..note.len() {
                prop_assert!(Intent::decode(&intent.encode(), [&note[..end]]).is_err());
            }
        }
    }

    #[test]
    fn every_entry_is_in_one_piece_of_a_target(intent in intents(), n in 0..4_u8) {
        let pieces = intent.pieces(target(n));
        let all: Vec<u32> = pieces.iter().flat_map(|piece| piece.entries.clone()).collect();
        prop_assert_eq!(all, (0..intent.entries.len() as u32).collect::<Vec<_>>());
        prop_assert!(pieces.iter().all(|piece| !piece.entries.is_empty()));
    }
}

fn three() -> Intent {
    let entries = (1..4).map(|ms| EntryId::new(ms, 0)).collect();
    Intent {
        entries,
        targets: vec![Target { table: 1, version: 1 }, SPAN, Target { table: 3, version: 1 }],
        ..Intent::default()
    }
}

fn refused(entry: u32, table: u8) -> Note {
    Note::Refused(Refused { entry, target: Target { table, version: 1 }, code: 117 })
}

#[test]
fn an_insert_token_depends_on_the_version_and_the_included_entries() {
    let whole = Piece { target: SPAN, entries: 0..3 };
    let token = three().token("s", &whole);
    assert!(token.starts_with("s/v1/1-0/3-0/"), "{token}");
    let next = Piece { target: Target { version: 2, ..SPAN }, entries: 0..3 };
    assert_ne!(three().token("s", &next), token, "the same entries, other columns");
    let mut without = three();
    without.withheld.push((1, Verdict::Park));
    assert_ne!(without.token("s", &whole), token, "the same ends, other rows");
    let mut earlier = three();
    earlier.note(refused(1, 1)).unwrap();
    assert_eq!(earlier.token("s", &whole), without.token("s", &whole), "the same rows for another reason");
    let mut later = three();
    later.note(refused(1, 3)).unwrap();
    assert_eq!(later.token("s", &whole), token, "its rows of an earlier table are there already");
    assert_ne!(three().token("s", &Piece { target: SPAN, entries: 0..2 }), token);
}

#[test]
fn a_repeated_entry_is_stored_and_not_billed() {
    let mut intent = three();
    intent.withheld = vec![(0, Verdict::Drop), (1, Verdict::Repeated)];
    let included = |table| {
        let target = Target { table, version: 1 };
        intent.included(&Piece { target, entries: 0..3 }).collect::<Vec<_>>()
    };
    assert_eq!((included(SPAN.table), included(BILLING_METER.id)), (vec![1, 2], vec![2]));
}

#[test]
fn a_cut_note_splits_only_the_pieces_of_its_target() {
    let mut intent = three();
    let piece = |entries| Piece { target: SPAN, entries };
    intent.note(Note::Cut { target: SPAN, before: vec![1] }).unwrap();
    assert_eq!(intent.pieces(SPAN), [piece(0..1), piece(1..3)]);
    intent.note(Note::Cut { target: SPAN, before: vec![2] }).unwrap();
    assert_eq!(intent.pieces(SPAN), [piece(0..1), piece(1..2), piece(2..3)]);
    assert_eq!(intent.pieces(Target { version: 2, ..SPAN }).len(), 1);
    for at in [0, 3] {
        let cut = Note::Cut { target: SPAN, before: vec![at] };
        assert_eq!(intent.note(cut), Err(IntentError::Broken), "nothing is before the first or after the last");
    }
}

#[test]
fn an_intent_of_an_unknown_format_is_named_in_the_error() {
    assert_eq!(Intent::decode(&[1, 0], [[0; 0]; 0]), Err(IntentError::Version(1)));
    assert_eq!(Intent::decode(&[], [[0; 0]; 0]), Err(IntentError::Broken));
}
