use super::*;
use std::fs;

/// A scalar of an event file: step, wall time, tag, value.
type Scalar = (u64, f64, String, f32);

/// Reads an event file and checks its sums.
fn parse(mut bytes: &[u8]) -> Vec<Scalar> {
    let mut scalars = Vec::new();
    let mut first = true;
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let sum = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let content = &bytes[12..12 + length];
        assert_eq!(sum(8), masked_crc(&bytes[..8]));
        assert_eq!(sum(12 + length), masked_crc(content));
        let event = fields(content);
        let wall_time = f64::from_le_bytes(event[0].1.try_into().unwrap());
        let step = event[1].0.1;
        if first {
            assert_eq!((event[2].0.0, event[2].1), (3, &b"brain.Event:2"[..]));
            first = false;
        } else {
            assert_eq!(event[2].0.0, 5);
            for (_, value) in fields(event[2].1) {
                let value = fields(value);
                let tag = String::from_utf8(value[0].1.to_vec()).unwrap();
                let scalar = f32::from_le_bytes(value[1].1.try_into().unwrap());
                scalars.push((step, wall_time, tag, scalar));
            }
        }
        bytes = &bytes[16 + length..];
    }
    assert!(!first, "the version is missing");
    scalars
}

/// Fields of a message: number, value of a varint or 0, content.
fn fields(mut bytes: &[u8]) -> Vec<((u8, u64), &[u8])> {
    let mut fields = Vec::new();
    let varint = |bytes: &mut &[u8]| {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    };
    while !bytes.is_empty() {
        let (number, kind) = (bytes[0] >> 3, bytes[0] & 7);
        bytes = &bytes[1..];
        let length = match kind {
            0 => {
                fields.push(((number, varint(&mut bytes)), &bytes[..0]));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        fields.push(((number, 0), &bytes[..length]));
        bytes = &bytes[length..];
    }
    fields
}

fn metrics(step: usize) -> StepMetrics {
    let (tokens, seconds) = (100 * step as u64, 0.5 * step as f64);
    let loss = 1.0 / step as f64;
    let (lr, grad_norm, skipped, masks) = (1e-3, 2.0, 0, None);
    StepMetrics { step, loss, lr, grad_norm, tokens, seconds, skipped, masks }
}

fn validation(step: usize) -> Validation {
    Validation { step, val_loss: 3.0 }
}

#[test]
fn sums_are_those_of_the_standard() {
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(varint(300), [0xac, 0x02]);
}

#[test]
fn events_are_those_of_the_logs_however_often_a_run_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let started = SystemTime::now();
    let open = |steps: &[StepMetrics], evaluations: &[Validation]| {
        Events::open(folder.path(), started, steps, evaluations).unwrap()
    };
    let read = || fs::read(folder.path().join(FILE)).unwrap();
    let steps: Vec<StepMetrics> = (1..=400).map(metrics).collect();
    let evaluations = [validation(130), validation(260)];

    let mut events = open(&[], &[]);
    for step in &steps {
        events.step(step).unwrap();
        if let Some(evaluation) = evaluations.iter().find(|e| e.step == step.step) {
            events.evaluation(evaluation).unwrap();
        }
    }
    let whole = read();
    let scalars = parse(&whole);
    assert_eq!(scalars.len(), 4 * 400 + 2);
    let started = scalars[0].1 - 0.5;
    let losses: Vec<&Scalar> = scalars.iter().filter(|(.., tag, _)| tag == "train/loss").collect();
    assert!(losses.iter().map(|scalar| scalar.0).eq(1..=400));
    for (step, wall_time, _, value) in losses {
        assert_eq!(*value, (1.0 / *step as f64) as f32);
        assert!((wall_time - started - 0.5 * *step as f64).abs() < 1e-3);
    }
    for (tag, value) in [
        ("train/learning_rate", 1e-3),
        ("train/gradient_norm", 2.0),
        ("train/tokens_per_second", 200.0),
        ("validation/loss", 3.0),
    ] {
        let mut found = scalars.iter().filter(|scalar| scalar.2 == tag).peekable();
        assert!(found.peek().is_some() && found.all(|scalar| scalar.3 == value), "{tag}");
    }

    // Taken up after step 130, from a file that goes on, is torn, damaged or lost.
    let torn = whole[..whole.len() - 7].to_vec();
    let mut damaged = whole.clone();
    damaged[200] ^= 1;
    for left in [whole.clone(), torn, damaged, Vec::new()] {
        fs::write(folder.path().join(FILE), left).unwrap();
        let mut events = open(&steps[..130], &evaluations[..1]);
        assert_eq!(parse(&read()).len(), 4 * 130 + 1);
        for step in &steps[130..] {
            events.step(step).unwrap();
            if step.step == 260 {
                events.evaluation(&evaluations[1]).unwrap();
            }
        }
        assert_eq!(read(), whole);
    }
}
