//! Exports and imports through the command line.

use std::fs;
use std::path::Path;

use crate::common::{contents, failure, json, run};
use crate::prepared::prepared;
use tempfile::TempDir;

/// A folder with `corpus.jsonl`, `dataset/` and the run `run/`, 75 % sparse.
fn trained() -> TempDir {
    let folder = prepared(150, "--vocab-size 500 --validation 0.1");
    let at = folder.path();
    let pretrain = "--json pretrain --preset micro --data dataset --sparsity 0.75 --out run \
                    --set train.steps=6 --set train.batch=4";
    json(&run(at, pretrain));
    folder
}

#[test]
fn a_run_goes_out_and_comes_back() {
    let folder = trained();
    let at = folder.path();
    let out = json(&run(at, "--json export hf run --out hf"));
    assert_eq!((&out["tensors"], &out["masks"], &out["step"]), (&28.into(), &8.into(), &6.into()));
    let back = json(&run(at, "--json import hf hf --out back"));
    assert_eq!((&back["tensors"], &back["masks"]), (&28.into(), &true.into()));
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(at.join("run/report.json")).expect("read")).expect("JSON");
    assert_eq!(back["weights_hash"], report["weights_hash"]);

    // The context is the same, so the windows are.
    let [before, after] = ["run", "back"].map(|name| {
        json(&run(at, &format!("--json eval {name} --data dataset")))["val_loss"].clone()
    });
    assert_eq!(before, after);
    let [before, after] = ["run", "back"]
        .map(|name| json(&run(at, &format!("--json generate {name} --prompt Effect --greedy"))));
    assert_eq!(before["text"], after["text"]);

    let shorter = "--set train.steps=2 --set train.batch=2";
    fs::remove_file(at.join("hf/masks.safetensors")).expect("remove");
    let thinned = "--json import hf hf --out thin --sparsity 0.5 --sparsify magnitude";
    let thinned = json(&run(at, &format!("{thinned} {shorter}")));
    assert_eq!((&thinned["sparsity"], &thinned["masks"]), (&0.5.into(), &false.into()));
    let resumed = json(&run(at, "--json pretrain --resume --data dataset --out thin"));
    assert_eq!(resumed["step"], 2);

    let gguf = json(&run(at, "--json export gguf thin --out thin.gguf"));
    assert_eq!((&gguf["tensors"], &gguf["step"]), (&28.into(), &2.into()));
    let half = json(&run(at, "--json export gguf thin --bits 16 --out half.gguf"));
    let length = |name: &str| fs::metadata(at.join(name)).expect("a file").len();
    assert_eq!(gguf["bytes"], length("thin.gguf"));
    assert_eq!(half["bytes"], length("half.gguf"));
    assert!(length("half.gguf") < length("thin.gguf") * 2 / 3);
    for dtype in ["f16", "bf16"] {
        json(&run(at, &format!("--json export gguf thin --dtype {dtype} --out {dtype}.gguf")));
        assert_eq!(length(&format!("{dtype}.gguf")), length("half.gguf"));
        json(&run(at, &format!("--json export hf thin --dtype {dtype} --out {dtype}")));
        assert!(
            length(&format!("{dtype}/model.safetensors")) < length("hf/model.safetensors") * 2 / 3
        );
        json(&run(at, &format!("--json import hf {dtype} --out from-{dtype} {shorter}")));
    }
    assert_eq!(fs::read(at.join("f16.gguf")).ok(), fs::read(at.join("half.gguf")).ok());
    failure(&run(at, "export gguf thin --bits 16 --dtype f16 --out no.gguf"), 2);
    for verb in ["export hf", "export gguf", "import hf"] {
        let help = run(at, &format!("{verb} --help"));
        assert!(String::from_utf8_lossy(&help.stdout).contains("Example"), "{verb}");
    }
}

#[test]
fn nothing_is_lost_and_every_mistake_is_named() {
    let folder = trained();
    let at = folder.path();
    json(&run(at, "--json export hf run --out hf"));
    json(&run(at, "--json export gguf run --out model.gguf"));
    fs::create_dir(at.join("mine")).expect("create");
    fs::write(at.join("mine/notes.txt"), "mine").expect("write");
    let before = contents(at);
    for (command_line, code, says) in [
        ("export hf run --out hf", 1, "--force"),
        ("export hf run --out mine", 1, "notes.txt"),
        ("export hf run --out mine --force", 1, "notes.txt"),
        ("export hf run --out corpus.jsonl --force", 1, "not a folder"),
        ("export hf absent --out new", 1, "absent: holds no run"),
        ("export hf run", 2, "--out"),
        ("export gguf run --out model.gguf", 1, "--force"),
        ("export gguf run --out mine --force", 1, "a folder"),
        ("export gguf run --out new --bits 8", 2, "choose 32 or 16"),
        ("export onnx run --out new", 2, "onnx"),
        ("import hf hf --out run", 1, "holds a run already"),
        ("import hf hf --out mine", 1, "notes.txt"),
        ("import hf mine --out new", 1, "no config.json"),
        ("import hf absent --out new", 1, "no config.json"),
        ("import hf hf --out new --sparsity 0.5", 1, "has masks"),
        ("import hf hf --out new --sparsity 1", 1, "[0, 1)"),
        ("import hf hf --out new --sparsity 0.5 --sparsify lottery", 1, "magnitude"),
        ("import hf hf --out new --sparsify random", 2, "--sparsity"),
        ("import hf hf --out new --tokenizer mine", 1, "mine"),
    ] {
        let message = failure(&run(at, command_line), code);
        assert!(message.contains(says), "{command_line}: {message}");
    }
    assert_eq!(contents(at), before);
    let read = |path: &Path| fs::read(path).expect("read");
    let whole = read(&at.join("model.gguf"));
    fs::write(at.join("model.gguf"), "old").expect("write");
    json(&run(at, "--json export gguf run --out model.gguf --force"));
    assert_eq!(read(&at.join("model.gguf")), whole);
    json(&run(at, "--json export hf run --out hf --force"));
    assert_eq!(contents(at), before);
}

#[test]
fn a_moses_model_goes_out_too() {
    let folder = prepared(150, "--kind moses-bpe --vocab-size 500 --validation 0.1");
    let at = folder.path();
    let pretrain = "--json pretrain --preset micro --data dataset --out run \
                    --set train.steps=2 --set train.batch=2";
    let report = json(&run(at, pretrain));
    json(&run(at, "--json export hf run --out hf"));
    json(&run(at, "--json export gguf run --out model.gguf"));
    let tokenizer = fs::read_to_string(at.join("hf/tokenizer_config.json")).expect("read");
    assert!(tokenizer.contains("BioGptTokenizer"), "{tokenizer}");
    let back = json(&run(at, "--json import hf hf --out back"));
    assert_eq!(back["weights_hash"], report["weights_hash"]);
    let loss = |name: &str| {
        json(&run(at, &format!("--json eval {name} --data dataset")))["val_loss"].clone()
    };
    assert_eq!(loss("run"), loss("back"));
}
