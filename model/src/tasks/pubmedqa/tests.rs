use super::*;
use crate::tasks::metrics::accuracy;
use serde_json::{Value, json};
use std::fs;

/// A mistake, and what the message says about it.
type Mistake = (fn(&mut Value), &'static str);

fn item(question: &str, label: Option<&str>) -> Value {
    let mut item = json!({
        "QUESTION": question,
        "CONTEXTS": ["A  first\nparagraph.", " A second one. "],
        "LONG_ANSWER": "It may be.",
        "LABELS": ["METHODS", "RESULTS"],
        "MESHES": [],
    });
    if let Some(label) = label {
        item["final_decision"] = json!(label);
    }
    item
}

/// 60 labelled items whose ids are their numbers after `first`.
fn items(first: usize, labelled: bool) -> serde_json::Map<String, Value> {
    let item = |i: usize| {
        let label = LABELS[if i.is_multiple_of(10) { 2 } else { i % 2 }];
        (
            format!("{}", first + i),
            item(&format!("Is it {}?", first + i), labelled.then_some(label)),
        )
    };
    (0..60).map(item).collect()
}

fn write(folder: &Path, name: &str, value: &impl serde::Serialize) {
    fs::write(folder.join(name), serde_json::to_string(value).unwrap()).unwrap();
}

fn all_stages() -> Vec<String> {
    PubMedQa.stages().iter().map(|s| s.to_string()).collect()
}

fn load(folder: &Path, change: impl FnOnce(&mut Request<'_>)) -> Result<TaskData, Error> {
    load_stages(folder, &all_stages(), change)
}

fn load_stages(
    folder: &Path,
    stages: &[String],
    change: impl FnOnce(&mut Request<'_>),
) -> Result<TaskData, Error> {
    let folders = [folder.to_path_buf()];
    let mut request = Request {
        folders: &folders,
        form: FORMS[0],
        split: SPLITS[0],
        stages,
        allow_overlap: false,
    };
    change(&mut request);
    PubMedQa.load(&request)
}

/// The message for a folder whose `ori_pqal.json` is changed by `spoil`.
fn refusal(spoil: impl FnOnce(&mut serde_json::Map<String, Value>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut all = items(100, true);
    spoil(&mut all);
    write(folder.path(), "ori_pqal.json", &all);
    let message = load(folder.path(), |_| {}).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("ori_pqal.json"), "{message}");
    message
}

#[test]
fn sources_and_targets_are_biogpts() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "ori_pqal.json", &items(100, true));
    let data = load(folder.path(), |_| {}).unwrap();
    assert_eq!((data.train.len(), data.dev.len(), data.test.len()), (26, 4, 30));
    let example = &data.train[0];
    assert_eq!(example.head, format!("question: Is it {}? context:", example.id));
    assert_eq!(example.passage, "A first paragraph. A second one.");
    assert_eq!(PubMedQa.target(&[2]), "the answer to the question given the context is maybe.");
    let free = load(folder.path(), |request| request.form = FREE).unwrap();
    assert_eq!(free.train[0].passage, "A first paragraph. A second one. answer: It may be.");
    assert_eq!(data.notes.len(), 3, "every missing stage is noted: {:?}", data.notes);
}

#[test]
fn answers_are_read_as_biogpt_reads_them() {
    let read = |text| PubMedQa.parse(text).concat();
    assert_eq!(read(" the answer to the question given the context is yes."), "yes");
    assert_eq!(read("the answer to the question given the context is  maybe ."), "maybe");
    assert_eq!(read("well, the answer to the question given the context is no"), "no");
    assert_eq!(read("the answer to the question given the context is unclear."), "unclear");
    for unreadable in
        ["yes", "", "the answer is yes.", "the answer to the question given the context is ."]
    {
        assert_eq!(read(unreadable), FAILED, "{unreadable}");
    }
}

#[test]
fn earlier_stages_are_read_where_their_files_are() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "ori_pqal.json", &items(100, true));
    write(folder.path(), "ori_pqaa.json", &items(1000, true));
    write(folder.path(), "ori_pqau.json", &items(2000, false));
    let row = |id, answer, split| {
        json!({"id": id, "question": "Is it?", "context": "It is.", "answer": answer, "split": split})
            .to_string()
    };
    let rows = [row("a", "yes", "train"), row("b", "no", "dev")].join("\n");
    fs::write(folder.path().join("bioasq_train_dev.jsonl"), rows).unwrap();
    let data = load(folder.path(), |_| {}).unwrap();
    let stages: Vec<_> =
        data.stages.iter().map(|s| (&*s.name, s.train.len(), s.dev.len(), s.unlabelled)).collect();
    let expected =
        [("bioasq", 1, 1, false), ("pqaa", 57, 3, false), ("pqau", 60, data.dev.len(), true)];
    assert_eq!(stages, expected);
    assert!(data.notes.is_empty());
    let data = load_stages(folder.path(), &["pqau".to_string()], |_| {}).unwrap();
    assert_eq!(data.stages.len(), 1);
    // A label where there must be none.
    write(folder.path(), "ori_pqau.json", &items(2000, true));
    let message = load(folder.path(), |_| {}).unwrap_err().to_string();
    assert!(message.contains("item 2000 has a final_decision"), "{message}");
}

#[test]
fn malformed_items_are_refused_with_their_id_and_place() {
    let cases: [Mistake; 7] = [
        (|item| drop(item.as_object_mut().unwrap().remove("QUESTION")), "missing field `QUESTION`"),
        (|item| drop(item.as_object_mut().unwrap().remove("CONTEXTS")), "missing field `CONTEXTS`"),
        (
            |item| drop(item.as_object_mut().unwrap().remove("final_decision")),
            "item 107: final_decision is missing",
        ),
        (|item| item["ANSWER"] = json!("x"), "unknown field `ANSWER`"),
        (
            |item| item["final_decision"] = json!("unknown"),
            "item 107: final_decision is 'unknown', but must be yes, no or maybe",
        ),
        (|item| item["CONTEXTS"] = json!([" "]), "item 107: CONTEXTS is empty"),
        (|item| item["QUESTION"] = json!(""), "item 107: QUESTION is empty"),
    ];
    for (spoil, expected) in cases {
        let message = refusal(|items| spoil(&mut items["107"]));
        assert!(message.contains(expected) && message.contains("107"), "{message}\n{expected}");
    }
    let message = refusal(|items| items["107"]["CONTEXTS"] = json!("text"));
    assert!(
        message.contains("item 107: invalid type: string") && message.contains("line 1"),
        "{message}"
    );
    let message = refusal(|items| items.retain(|id, _| **id < *"102"));
    assert!(message.contains("2 items are too few for fold 0"), "{message}");
}

#[test]
fn duplicate_ids_and_missing_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = load(folder.path(), |_| {}).unwrap_err().to_string();
    assert!(message.contains("holds neither ori_pqal.json nor ori_pqal.json.gz"), "{message}");
    let message = load(&folder.path().join("no"), |_| {}).unwrap_err().to_string();
    assert!(message.contains("there is no such folder"), "{message}");
    let text = serde_json::to_string(&items(100, true)).unwrap();
    let twice = format!("{},{}", text.strip_suffix('}').unwrap(), &text[1..]);
    fs::write(folder.path().join("ori_pqal.json"), twice).unwrap();
    let message = load(folder.path(), |_| {}).unwrap_err().to_string();
    assert!(message.contains("id 100 appears twice"), "{message}");
}

#[test]
fn what_is_in_test_is_not_trained_on_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "ori_pqal.json", &items(100, true));
    let test = load(folder.path(), |_| {}).unwrap().test;
    let mut pqaa = items(1000, true);
    pqaa.insert(test[3].id.clone(), item("Is it another?", Some("yes")));
    write(folder.path(), "ori_pqaa.json", &pqaa);
    let message = load(folder.path(), |_| {}).unwrap_err().to_string();
    let expected = format!("example {} is in pqaa and in test", test[3].id);
    assert!(message.contains(&expected), "{message}");
    assert!(load(folder.path(), |request| request.allow_overlap = true).is_ok());
    // The same source under another id.
    pqaa.remove(&test[3].id);
    pqaa.insert("9".into(), item(&format!("Is it {}?", test[3].id), Some("yes")));
    write(folder.path(), "ori_pqaa.json", &pqaa);
    let message = load(folder.path(), |_| {}).unwrap_err().to_string();
    assert!(message.contains("example 9 of pqaa has the source of"), "{message}");
}

#[test]
fn listed_splits_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "ori_pqal.json", &items(100, true));
    let fold = json!({"train": ["101", "102"], "dev": ["103"]});
    let listed = json!({"test": ["104", "105"], "folds": [fold]});
    write(folder.path(), "pqal_splits.json", &listed);
    let data = load(folder.path(), |_| {}).unwrap();
    assert_eq!(data.test.iter().map(|e| &*e.id).collect::<Vec<_>>(), ["104", "105"]);
    assert_eq!(data.split, "split as listed, fold-0, 2/1/2 questions");
    let message = load(folder.path(), |request| request.split = "fold-1").unwrap_err().to_string();
    assert!(message.contains("it has 1 folds, but no fold 1"), "{message}");
    write(folder.path(), "test_ground_truth.json", &json!({"104": "yes"}));
    let message = load(folder.path(), |_| {}).unwrap_err().to_string();
    assert!(message.contains("it lacks 105"), "{message}");
    write(folder.path(), "test_ground_truth.json", &json!({"104": "no", "105": "no"}));
    let message = load(folder.path(), |_| {}).unwrap_err().to_string();
    assert!(message.contains("104 is 'no', but 'yes'"), "{message}");
    for (listed, expected) in [
        (json!({"test": ["999"], "folds": [fold]}), "test lists 999, which ori_pqal.json"),
        (json!({"test": ["104", "104"], "folds": [fold]}), "test: id 104 appears twice"),
        (json!({"test": ["101"], "folds": [fold]}), "example 101 is in train and in test"),
    ] {
        fs::remove_file(folder.path().join("test_ground_truth.json")).ok();
        write(folder.path(), "pqal_splits.json", &listed);
        let message = load(folder.path(), |_| {}).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\n{expected}");
    }
}

/// The real files, beside some checkouts.
fn official() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/pubmedqa");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

#[test]
fn the_official_split_is_reproduced_for_every_fold() {
    let Some(folder) = official() else { return };
    let folders = [folder.clone()];
    let examples = read(&folder.join("ori_pqal.json"), FORMS[0]).unwrap();
    let split = split(&examples);
    let ids = |part: &[&Example]| part.iter().map(|e| e.id.clone()).collect::<Vec<_>>();
    for fold in 0..10 {
        let (listed, _) = parts(&folders, &folder.join("ori_pqal.json"), &examples, fold).unwrap();
        let (train, dev) = split.fold(fold);
        assert_eq!(ids(&train), ids(&listed[0]), "train of fold {fold}");
        assert_eq!(ids(&dev), ids(&listed[1]), "dev of fold {fold}");
        assert_eq!(ids(&split.test), ids(&listed[2]));
    }
}

#[test]
fn official_scores_are_reproduced() {
    let Some(folder) = official() else { return };
    let data = load(&folder, |_| {}).unwrap();
    let raw: HashMap<String, Value> = files::json(&folder.join("ori_pqal.json")).unwrap();
    let score = |answer: &dyn Fn(&Example) -> String| {
        let answers: Vec<Vec<String>> = data.test.iter().map(|e| vec![answer(e)]).collect();
        let scores = PubMedQa.score(FORMS[0], &data.test, &answers);
        [scores[0].value, scores[1].value].map(|value| (value * 1e4).round() / 1e4)
    };
    assert_eq!(score(&|_| "yes".into()), [0.552, 0.2371]);
    let human = |field: &'static str| {
        score(&|example| raw[&example.id][field].as_str().unwrap().to_string())
    };
    assert_eq!(human("reasoning_free_pred"), [0.904, 0.8418]);
    assert_eq!(human("reasoning_required_pred"), [0.78, 0.7219]);
    let half: Vec<&str> = data.test.iter().map(|_| FAILED).collect();
    let truth: Vec<&str> = data.test.iter().map(|e| LABELS[e.labels[0]]).collect();
    assert_eq!(accuracy(&truth, &half), 0.0);
}
