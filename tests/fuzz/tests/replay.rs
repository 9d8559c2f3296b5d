//! Every target on its seeds, on what fuzzers have learned, and on everything that they have found wrong so far.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use fuzz::TARGETS;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::envelope::Envelope;

#[test]
fn seeds_pass() {
    let seeds = fuzz::seeds::all().unwrap();
    for target in TARGETS {
        let own = seeds.iter().filter(|seed| seed.target == target.name);
        let passed = own.map(|seed| (target.check)(&seed.bytes)).count();
        assert!(passed > 0, "{} has no seed", target.name);
    }
}

/// A target that is only here is never fuzzed.
#[test]
fn every_target_has_a_program_a_dictionary_and_a_description() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    for directory in ["libfuzzer/fuzz_targets", "dictionaries"] {
        let files = std::fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path());
        let files: BTreeSet<_> = files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(files, names, "{directory}");
    }
    let (programs, description) = (read("libfuzzer/Cargo.toml"), read("../../docs/testing/fuzzing.md"));
    for name in names {
        assert!(programs.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is no program");
        assert!(description.contains(&format!("`{name}`")), "{name} is not described");
    }
}

/// Cut and flipped, seeds are what a fuzzer tries first.
#[test]
fn mutated_seeds_pass() {
    for seed in fuzz::seeds::all().unwrap() {
        let target = TARGETS.iter().find(|target| target.name == seed.target).unwrap();
        let step = seed.bytes.len() / 16 + 1;
        for at in (0..seed.bytes.len()).step_by(step) {
            (target.check)(&seed.bytes[..at]);
            let mut flipped = seed.bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            (target.check)(&flipped);
        }
    }
}

/// Where it matters: at the beginning of every segment, and in the lengths before it, which say how it is to be read.
#[test]
fn changed_envelopes_become_whole_blocks_or_are_refused() {
    const CHANGED: usize = 150;
    const NUMBERS: [u32; 8] = [0, 1, 2, 0x7f, 0x80, 500_000, 1 << 31, u32::MAX];
    let random = &mut StdRng::seed_from_u64(11);
    let seeds = fuzz::seeds::all().unwrap();
    for seed in seeds.iter().filter(|seed| seed.target == "envelope") {
        let envelope = Envelope::decode(&fuzz::key(), &seed.bytes).unwrap();
        let columns = envelope.sections.iter().flat_map(|section| &section.columns);
        let starts: Vec<usize> = columns
            .flat_map(|column| &column.segments)
            .filter(|segment| !segment.bytes.is_empty())
            .map(|segment| segment.bytes.as_ptr() as usize - seed.bytes.as_ptr() as usize)
            .collect();
        for _ in 0..CHANGED {
            let mut changed = seed.bytes.clone();
            for _ in 0..random.random_range(1..3) {
                let start = starts[random.random_range(0..starts.len())];
                let at = (start - random.random_range(0..24) + random.random_range(0..16)).min(changed.len() - 4);
                match random.random_range(0..4) {
                    0 => changed[at] ^= 1 << random.random_range(0..8),
                    1 => changed[at] = changed[at].wrapping_add(1),
                    2 => changed[at] = random.random(),
                    _ => {
                        let number = NUMBERS[random.random_range(0..NUMBERS.len())];
                        changed[at..at + 4].copy_from_slice(&number.to_le_bytes());
                    }
                }
            }
            fuzz::envelope(&changed);
        }
    }
}

#[test]
fn learned_inputs_pass() {
    for target in TARGETS {
        for input in fuzz::corpus::read(target.name).unwrap() {
            (target.check)(&input);
        }
    }
}

/// Runs the files `regressions/<target>/<what was wrong>`.
#[test]
fn inputs_that_failed_before_pass() {
    for target in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target.name);
        let Ok(found) = std::fs::read_dir(directory) else { continue };
        for entry in found {
            (target.check)(&std::fs::read(entry.unwrap().path()).unwrap());
        }
    }
}

/// No fuzzer makes bodies this long.
#[test]
fn an_error_answer_does_not_repeat_the_body() {
    let long = "x".repeat(1 << 20);
    for body in [
        format!(r#""{long}""#),
        format!(r#"{{"runs":"{long}"}}"#),
        format!(r#"{{"runs":["{long}"],"spans":["{long}"]}}"#),
        format!(r#"{{"runs":[{{"run_id":"{long}"}}],"spans":[{{"span_id":"{long}"}}]}}"#),
        format!(r#"{{"post":"{long}"}}"#),
        format!(r#"{{"post":["{long}"],"patch":[{{"id":"{long}"}}]}}"#),
        format!(r#"{{"id":"{long}","key":7}}"#),
        format!(r#"{{"id":"5f1a0000-0000-4000-8000-0000000000aa","tags":"{long}","error":{{"{long}":1}}}}"#),
        format!(r#"{{"resourceSpans":"{long}"}}"#),
        format!(r#"{{"resourceSpans":[{{"resource":"{long}"}}]}}"#),
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":["{long}"]}}]}}]}}"#),
    ] {
        fuzz::native(body.as_bytes());
        fuzz::otlp_json(body.as_bytes());
        for kind in 0..4 {
            fuzz::langsmith_json(&[&[kind], body.as_bytes()].concat());
        }
    }
    for name in [format!("post.{long}"), format!("{long}.x")] {
        let part = format!("Content-Disposition: form-data; name=\"{name}\"\r\nX: {long}\r\n\r\n{{}}");
        fuzz::langsmith_multipart(format!("multipart/form-data; boundary=b\n--b\r\n{part}\r\n--b--").as_bytes());
    }
}
