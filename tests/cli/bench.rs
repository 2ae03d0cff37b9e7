//! `bench layer` through the command line: what it prints, draws and refuses. Nothing here depends on
//! how fast the machine is.

use std::fs;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::common::{contents, failure, json, program, run};
use serde_json::Value;

/// Options that make a measurement take milliseconds.
const QUICK: &str = "--tokens 32 --rounds 2";

fn rows(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().expect("a list of rows")
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn every_product_is_reported_and_drawn() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let command = format!(
        "--json bench layer {QUICK} --shape 64x96,40x30 --sparsity 0.5,0.9 --plot chart.svg \
         --product forward,dx,dw,step,one-token"
    );
    let report = json(&run(at, &command));
    assert_eq!(rows(&report).len(), 2 * 2 * 5);
    for row in rows(&report) {
        let (dense, sparse) = (number(&row["dense_seconds"]), number(&row["sparse_seconds"]));
        assert!(dense > 0.0 && sparse > 0.0);
        assert!((number(&row["realised_speedup"]) - dense / sparse).abs() < 1e-9);
        let theory = 1.0 / (1.0 - number(&row["sparsity"]));
        assert!((number(&row["theoretical_speedup"]) - theory).abs() < 1e-9);
        assert!(number(&row["fraction_of_peak"]) > 0.0);
        assert!(!row["kernel"].as_str().expect("a name").is_empty());
        assert!(number(&row["sparse_spread"]["least"]) <= sparse);
    }
    assert!(number(&report["fma_peak_gflops"]) > 0.0);
    assert!(number(&report["bandwidth_gbytes"]["l1"]) > 0.0);
    assert_eq!(report["geometric_means"].as_array().map(Vec::len), Some(2 * 5));
    let svg = fs::read_to_string(at.join("chart.svg")).expect("the chart");
    for part in ["theory", "physical ceiling", "64 × 96", "speedup over the best dense code"] {
        assert!(svg.contains(part), "no '{part}' in the chart");
    }
    assert!(fs::read(at.join("chart.png")).expect("the chart").starts_with(b"\x89PNG"));
}

#[test]
fn plans_are_named_measured_and_kept() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let layer = format!("--json bench layer {QUICK} --shape 64x96 --sparsity 0.5 --product step");
    let report = json(&run(at, &format!("{layer} --plan csr/csr/csr")));
    assert_eq!(rows(&report)[0]["kernel"], "csr/csr/csr");
    assert_eq!(rows(&report)[0]["fallback"], false);
    let report = json(&run(at, &format!("{layer} --plan dense/csr/csr")));
    assert_eq!(rows(&report)[0]["fallback"], true);
    let report = json(&run(at, &format!("{layer} --plan tuned --save-plans plans.toml")));
    let kept = fs::read_to_string(at.join("plans.toml")).expect("the plans");
    let plan = rows(&report)[0]["kernel"].as_str().expect("a name");
    assert!(kept.contains(&format!("\"64x96@3072\" = \"{plan}\"")), "{kept}");
}

#[test]
fn sixteen_bits_are_compared_with_dense_code_of_both_precisions() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    for precision in ["bf16", "f16"] {
        let layer =
            format!("bench layer {QUICK} --shape 40x96 --sparsity 0.5 --precision {precision}");
        let report = json(&run(at, &format!("--json {layer} --plot {precision}.svg")));
        assert_eq!(report["precision"], precision);
        assert_eq!(rows(&report).len(), 4);
        for row in rows(&report) {
            let own = format!("own {precision} gemm");
            assert!(row["dense_kernel"].as_str().expect("a name").contains(&own), "{row}");
            let f32 = |key: &str| number(&row["f32"][key]);
            let sparse = number(&row["sparse_seconds"]);
            assert!((f32("speedup_over_dense") - f32("dense_seconds") / sparse).abs() < 1e-9);
            assert!((f32("speedup_over_sparse") - f32("sparse_seconds") / sparse).abs() < 1e-9);
        }
        let step = rows(&report).last().expect("a step");
        assert!(step["kernel"].as_str().expect("a name").starts_with(&format!("{precision}:")));
        let means = report["geometric_means"].as_array().expect("means");
        assert!(means.iter().all(|mean| number(&mean["speedup_over_f32_sparse"]) > 0.0));
        let svg = fs::read_to_string(at.join(format!("{precision}.svg"))).expect("the chart");
        assert!(svg.contains(precision), "the chart does not say {precision}");
        let text = String::from_utf8(run(at, &layer).stdout).expect("text");
        assert!(text.contains("÷ f32 sparse"), "{text}");
    }
    let report =
        json(&run(at, &format!("--json bench layer {QUICK} --shape 40x96 --sparsity 0.5")));
    assert!(rows(&report).iter().all(|row| row["f32"].is_null()));
}

#[test]
fn masks_come_from_files() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    // Row r of 48 has the columns r and r + 1, and every fourth row none.
    let (mut offsets, mut columns) = (vec![0], Vec::new());
    for row in 0..48 {
        if row % 4 != 0 {
            columns.extend([row, row + 1]);
        }
        offsets.push(columns.len());
    }
    let join =
        |numbers: &[usize]| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let text = format!("48, 64, {}\r\n{}\r\n{}", columns.len(), join(&offsets), join(&columns));
    fs::write(at.join("mask.smtx"), text).expect("a file");
    let report = json(&run(at, &format!("--json bench layer {QUICK} --mask mask.smtx")));
    assert_eq!(rows(&report).len(), 4);
    for row in rows(&report) {
        assert_eq!(row["shape"], "48x64");
        let density = columns.len() as f64 / (48.0 * 64.0);
        assert!((number(&row["sparsity"]) - (1.0 - density)).abs() < 1e-9);
    }
    for mask in ["random", "skewed", "row-skewed", "column-skewed", "block"] {
        let command =
            format!("--json bench layer {QUICK} --shape 48x64 --sparsity 0.8 --mask {mask}");
        assert_eq!(rows(&json(&run(at, &command))).len(), 4, "{mask}");
    }
    let command = format!("bench layer {QUICK} --mask mask.smtx --shape 48x48");
    assert!(failure(&run(at, &command), 2).contains("is 48x64"));
    fs::write(at.join("bad.smtx"), "2, 2, 1\n0 1 1\n2\n").expect("a file");
    let message = failure(&run(at, "bench layer --mask bad.smtx"), 1);
    assert!(message.contains("bad.smtx") && message.contains("row 0"), "{message}");
    fs::write(at.join("empty.smtx"), "2, 2, 0\n0 0 0\n").expect("a file");
    let message = failure(&run(at, "bench layer --mask empty.smtx"), 1);
    assert!(message.contains("without a non-zero"), "{message}");
}

/// Far more than anybody waits for.
const LONG: &str = "--tokens 64 --rounds 1000 --product step --shape 256x256,255x256,256x255 \
                    --sparsity 0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9";

#[cfg(unix)]
#[test]
fn an_interrupted_measurement_sums_up_draws_and_saves_what_it_has() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let command = format!("bench layer {LONG} --plot chart.svg --save-plans plans.toml");
    let mut child = program(at)
        .args(command.split_whitespace())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    // The first row is there long before the last.
    let (mut line, mut text) = (String::new(), String::new());
    while !line.starts_with("256x256") {
        line.clear();
        assert!(stdout.read_line(&mut line).expect("read") > 0, "{text}");
        text += &line;
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    stdout.read_to_string(&mut text).expect("read");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{text}");
    let rows = text.lines().filter(|line| line.starts_with("25")).count();
    assert!((1..27).contains(&rows), "{text}");
    assert!(
        text.contains("geometric mean over shapes") && text.contains("wrote chart.svg"),
        "{text}"
    );
    assert!(fs::read_to_string(at.join("chart.svg")).expect("the chart").contains("256 × 256"));
    assert!(fs::read_to_string(at.join("plans.toml")).expect("the plans").contains("256x256@"));
}

#[test]
fn steps_are_measured_with_their_dense_twin_and_drawn_by_part() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let command = "--json bench step --preset micro --batch 1 --ctx 16 --steps 1 --plot step.svg";
    let report = json(&run(at, command));
    assert_eq!(rows(&report).len(), 2);
    assert_eq!((number(&rows(&report)[0]["sparsity"]), number(&report["sparsity"])), (0.0, 0.75));
    // With a vocabulary that leaves something to gain.
    assert!(number(&report["theoretical_speedup"]) > 1.2, "{report}");
    let parts = report["parts"].as_array().expect("parts");
    let head =
        parts.iter().filter(|part| part["name"].as_str().is_some_and(|n| n.contains("head")));
    assert_eq!(head.count(), 2, "forward and backward");
    let svg = fs::read_to_string(at.join("step.svg")).expect("the chart");
    for part in ["dense", "75 % sparse", "output head, forward", "linear layers, backward"] {
        assert!(svg.contains(part), "no '{part}' in the chart");
    }
    assert!(fs::read(at.join("step.png")).expect("the chart").starts_with(b"\x89PNG"));
    let refused = failure(&run(at, "bench step --preset micro --vocab 0"), 2);
    assert!(refused.contains("--vocab"), "{refused}");
}

#[test]
fn training_on_many_machines_is_predicted_from_this_one() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    let small = "--preset micro --sparsity 0,0.75 --gbit 10,100";
    let command =
        format!("--json bench scaling {small} --steps 1 --nodes 1,2,8,64 --plot scaling.svg");
    let report = json(&run(at, &command));
    assert!(report["source"].as_str().expect("a text").starts_with("measured: "), "{report}");
    assert_eq!(report["computing"].as_array().map(Vec::len), Some(2));
    // Of eight sequences a step, 64 machines have nothing.
    assert_eq!(rows(&report).len(), 2 * 2 * 3);
    for row in rows(&report) {
        let nodes = number(&row["nodes"]);
        let parts =
            ["computing", "sums", "update", "packing", "reduce_scatter", "all_gather", "agreement"];
        let sum: f64 = parts.iter().map(|part| number(&row[format!("{part}_seconds")])).sum();
        assert!((sum - number(&row["step_seconds"])).abs() < 1e-9);
        assert_eq!(number(&row["bytes_sent"]) == 0.0, nodes == 1.0, "{row}");
        assert!((number(&row["efficiency"]) - 1.0).abs() < 1e-9 || nodes > 1.0, "{row}");
        let tokens = 8.0 * 64.0 / number(&row["step_seconds"]);
        assert!((number(&row["tokens_per_second"]) - tokens).abs() < 1e-6 * tokens);
    }
    let svg = fs::read_to_string(at.join("scaling.svg")).expect("the chart");
    for part in ["micro", "75 % sparse", "dense", "100 Gbit/s", "tokens per second", "efficiency"] {
        assert!(svg.contains(part), "no '{part}' in the chart");
    }
    assert!(fs::read(at.join("scaling.png")).expect("the chart").starts_with(b"\x89PNG"));

    fs::write(at.join("node.json"), report.to_string()).expect("write");
    let again =
        json(&run(at, &format!("--json bench scaling {small} --nodes 1,2,8 --from node.json")));
    assert_eq!(again["source"], report["source"]);
    assert_eq!(rows(&again).len(), rows(&report).len());
    let text = run(
        at,
        "bench scaling --preset med --sparsity 0.75 --nodes 512 --step-seconds med:0.75=3.3",
    );
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    assert!(text.contains("given") && text.contains("512 machines"), "{text}");
}

#[test]
fn one_process_is_told_how_to_start_several() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let message = failure(&run(folder.path(), "bench comm"), 2);
    assert!(message.contains("mpirun -n 2 mediswift bench comm"), "{message}");
    for options in ["--largest 0", "--seconds=-1", "--seconds NaN"] {
        let message = failure(&run(folder.path(), &format!("bench comm {options}")), 2);
        assert!(
            message.contains(options.split([' ', '=']).next().expect("an option")),
            "{message}"
        );
    }
}

#[test]
fn nonsense_predictions_are_refused_in_one_line() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    fs::write(at.join("other.json"), "{\"rows\":[]}").expect("write");
    let given = "--preset med --sparsity 0 --step-seconds";
    for (options, code, part) in [
        ("--preset huge".to_string(), 2, "huge"),
        ("--sparsity 2".to_string(), 2, "sparsity"),
        ("--nodes 0".to_string(), 2, "--nodes"),
        ("--gbit 0".to_string(), 2, "must be above 0"),
        ("--alpha=-1".to_string(), 2, "--alpha"),
        ("--alpha NaN".to_string(), 2, "from 0 to 1e9"),
        (format!("{given} med=3"), 2, "PRESET:SPARSITY=SECONDS"),
        (format!("{given} med:0.5=3"), 2, "says nothing of med:0"),
        ("--from missing.json".to_string(), 1, "missing.json: cannot open"),
        ("--from other.json".to_string(), 1, "not the output of `bench scaling --json`"),
        (format!("{given} med:0=3 --plot chart.pdf"), 2, "name a chart .svg or .png"),
    ] {
        let message = failure(&run(at, &format!("bench scaling {options}")), code);
        assert!(message.contains(part), "{options}: {message}");
    }
}

#[test]
fn bad_options_are_one_clear_line() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    for (options, code, part) in [
        ("--shape 64", 2, "OUTxIN"),
        ("--shape 0x5", 2, "OUTxIN"),
        ("--sparsity 1", 2, "[0, 1)"),
        ("--sparsity -0.5", 2, "[0, 1)"),
        ("--sparsity NaN", 2, "[0, 1)"),
        ("--tokens 0", 2, "tokens"),
        ("--product backward", 2, "forward, dx, dw, step"),
        ("--isa avx9", 2, "avx9"),
        ("--isa neon,avx2", 2, "neon,avx2"),
        ("--plan fast", 2, "forward/dx/dw"),
        ("--precision f64", 2, "choose f32, bf16 or f16"),
        ("--precision bf16 --plan csr/csr/csr", 2, "is of f32, not of bf16"),
        ("--plan bf16:dense/dense/dense", 2, "is of bf16, not of f32"),
        ("--precision bf16 --plan bf16:csr/csr/csr", 2, "'csr' does not multiply bf16"),
        ("--plan csr/csr/panels-r3-v4-u1-k1-m1-p1", 2, "panels-rR-vV"),
        ("--mask pruned", 2, "row-skewed"),
        ("--mask missing.smtx", 1, "missing.smtx: cannot be read"),
        ("--mask missing.csv", 1, ".smtx, .mtx or .npz"),
        ("--dense missing.so", 1, "missing.so: cannot be loaded"),
        ("--plot nowhere/chart.svg", 1, "nowhere/chart.svg"),
        ("--plot chart.pdf", 2, "name a chart .svg or .png"),
        ("--shape 1000000x1000000", 1, "more than is free"),
    ] {
        let message = failure(&run(at, &format!("bench layer {options}")), code);
        assert!(message.contains(part), "{options}: {message}");
    }
    assert!(contents(at).is_empty(), "something was left behind");
}
