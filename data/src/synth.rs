//! A synthetic corpus of biomedical abstracts, so that everything runs offline.
//!
//! Loss curves on random text mean nothing; here there is something to learn at every scale.
//! Words are composed from morphemes, and a drug's ending gives away its class. A class of drugs
//! has one target and helps in some organ systems only, so results follow from the names in the
//! title. A disease has one gene, one symptom and one outcome measure wherever it occurs. Numbers
//! agree between sentences: arms add up to the sample, differences are differences of the means
//! given, and the conclusion says what the results showed. Names are drawn with Zipf-like
//! frequencies, as in real text.
//!
//! Facts belong to the seed, document `i` to (seed, `i`): any part of the corpus can be made
//! alone, and the same seed always gives the same bytes. All medicine here is invented.

mod questions;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use mediswift_files as files;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use crate::DataError;
use crate::error::RequestProblem;
use crate::source::{Compression, Format, RecordFormat, format_of};

pub use questions::{SynthQuestion, questions, write_questions};

/// How many documents to write between two calls of the progress callback.
const REPORT_EVERY: u64 = 1000;

/// One synthetic abstract, ready to be written as a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SynthRecord {
    /// `synth-<seed>-<number>`.
    pub id: String,
    /// The title.
    pub title: String,
    /// The abstract, one line.
    pub r#abstract: String,
}

/// The endless corpus of a seed; take as many records as needed.
pub fn records(seed: u64) -> impl Iterator<Item = SynthRecord> {
    let world = World::new(seed);
    (0u64..).map(move |number| world.record(seed, number))
}

/// Writes the first `documents` records of a seed as JSONL, compressed if the name ends in `.gz`
/// or `.zst`; returns the bytes of text before compression. The file appears when it is whole.
///
/// `progress` is given the number of documents written, and may stop the work with `Break`.
///
/// # Errors
/// When the name does not end like an input of [`crate::source`], the disk refuses,
/// or with [`DataError::Interrupted`].
pub fn write(
    path: &Path,
    seed: u64,
    documents: u64,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<u64, DataError> {
    let Some(compression) = jsonl_compression(path) else {
        return Err(RequestProblem::UnknownOutput { path: path.to_owned() }.into());
    };
    let mut bytes = 0;
    files::write_with(path, |file| {
        let mut write_to = |out: &mut dyn Write| {
            for (record, done) in records(seed).zip(0..documents) {
                if done % REPORT_EVERY == 0 && progress(done).is_break() {
                    return Err(DataError::Interrupted);
                }
                let mut line = serde_json::to_vec(&record)
                    .map_err(|e| DataError::io("write", path, e.into()))?;
                line.push(b'\n');
                bytes += line.len() as u64;
                out.write_all(&line).map_err(|e| DataError::io("write", path, e))?;
            }
            Ok(())
        };
        match compression {
            Compression::None => write_to(file),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(file, flate2::Compression::default());
                write_to(&mut encoder)?;
                encoder.finish().map(drop).map_err(|e| DataError::io("write", path, e))
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)
                    .map_err(|e| DataError::io("write", path, e))?;
                write_to(&mut encoder)?;
                encoder.finish().map(drop).map_err(|e| DataError::io("write", path, e))
            }
        }
    })?;
    Ok(bytes)
}

/// How a JSONL file is compressed, by its name; `None` if it is not JSONL by its name.
fn jsonl_compression(path: &Path) -> Option<Compression> {
    let (format, compression) = format_of(path)?;
    (format == Format::Records(RecordFormat::Jsonl)).then_some(compression)
}

/// An organ system: adjective, organ, word stem, what is measured, its unit, whether lower is
/// better, and a typical value.
struct System {
    adjective: &'static str,
    organ: &'static str,
    stem: &'static str,
    measure: &'static str,
    unit: &'static str,
    lower_is_better: bool,
    typical: u64,
}

const fn system(words: [&'static str; 5], lower_is_better: bool, typical: u64) -> System {
    let [adjective, organ, stem, measure, unit] = words;
    System { adjective, organ, stem, measure, unit, lower_is_better, typical }
}

const SYSTEMS: [System; 12] = [
    system(["cardiac", "heart", "cardi", "left ventricular ejection fraction", "%"], false, 38),
    system(["renal", "kidney", "nephr", "albumin excretion rate", "mg/day"], true, 320),
    system(["hepatic", "liver", "hepat", "alanine aminotransferase level", "U/L"], true, 96),
    system(["pulmonary", "lung", "pneumon", "forced expiratory volume", "% predicted"], false, 54),
    system(["gastric", "stomach", "gastr", "mucosal damage score", "points"], true, 18),
    system(["cutaneous", "skin", "dermat", "lesion severity index", "points"], true, 24),
    system(["articular", "joint", "arthr", "pain intensity score", "mm"], true, 62),
    system(["neural", "brain", "encephal", "memory composite score", "points"], false, 41),
    system(["vascular", "artery", "angi", "systolic blood pressure", "mm Hg"], true, 154),
    system(["skeletal", "bone", "oste", "bone mineral density", "mg/cm3"], false, 112),
    system(["retinal", "eye", "retin", "central macular thickness", "um"], true, 384),
    system(["haematological", "blood", "haemat", "haemoglobin concentration", "g/L"], false, 92),
];

/// A class of drugs: the ending of its names, what it is, what it does, the organ systems it helps
/// in (indices of [`SYSTEMS`]) and its typical adverse event.
struct Class {
    ending: &'static str,
    name: &'static str,
    action: &'static str,
    helps: [usize; 3],
    adverse: &'static str,
}

const fn class(words: [&'static str; 4], helps: [usize; 3]) -> Class {
    let [ending, name, action, adverse] = words;
    Class { ending, name, action, helps, adverse }
}

const CLASSES: [Class; 12] = [
    class(["tinib", "kinase inhibitor", "blocks receptor phosphorylation", "rash"], [2, 3, 11]),
    class(
        ["umab", "monoclonal antibody", "neutralises a circulating cytokine", "infusion reaction"],
        [5, 6, 4],
    ),
    class(["astatin", "reductase inhibitor", "lowers lipid synthesis", "muscle pain"], [0, 8, 10]),
    class(
        ["opril", "converting enzyme inhibitor", "reduces peptide activation", "dry cough"],
        [0, 1, 8],
    ),
    class(
        ["osartan", "receptor antagonist", "prevents receptor signalling", "dizziness"],
        [1, 8, 10],
    ),
    class(["olol", "adrenergic blocker", "slows sympathetic drive", "bradycardia"], [0, 8, 7]),
    class(
        ["iprazole", "proton pump inhibitor", "suppresses acid secretion", "headache"],
        [4, 2, 5],
    ),
    class(
        ["dronate", "bisphosphonate", "inhibits bone resorption", "oesophageal irritation"],
        [9, 6, 11],
    ),
    class(
        ["asone", "corticosteroid", "represses inflammatory transcription", "weight gain"],
        [3, 5, 6],
    ),
    class(
        ["afil", "phosphodiesterase inhibitor", "prolongs nucleotide signalling", "flushing"],
        [3, 8, 0],
    ),
    class(["epine", "channel modulator", "stabilises neuronal firing", "drowsiness"], [7, 6, 10]),
    class(
        ["gliptin", "peptidase inhibitor", "extends incretin activity", "nasopharyngitis"],
        [1, 2, 10],
    ),
];

const DRUG_STARTS: [&str; 16] = [
    "al", "be", "cor", "da", "el", "fen", "ga", "lo", "ma", "ner", "o", "pra", "ri", "sul", "ter",
    "vi",
];
const DRUG_MIDDLES: [&str; 12] = ["b", "ct", "d", "lv", "m", "nd", "pr", "r", "s", "t", "v", "x"];
const DISEASE_ENDINGS: [&str; 6] = ["itis", "opathy", "osis", "omegaly", "omalacia", "oma"];
const COURSES: [&str; 6] = ["acute", "chronic", "recurrent", "juvenile", "familial", "refractory"];
const SYMPTOMS: [&str; 16] = [
    "fatigue",
    "fever",
    "oedema",
    "dyspnoea",
    "nausea",
    "pruritus",
    "vertigo",
    "weight loss",
    "night sweats",
    "palpitations",
    "jaundice",
    "stiffness",
    "confusion",
    "pallor",
    "anorexia",
    "blurred vision",
];
const RISKS: [&str; 10] = [
    "current smoking",
    "obesity",
    "advanced age",
    "diabetes",
    "physical inactivity",
    "high salt intake",
    "alcohol use",
    "low income",
    "shift work",
    "air pollution",
];

struct Drug {
    name: String,
    class: usize,
}

struct Disease {
    name: String,
    system: usize,
    gene: usize,
    symptom: &'static str,
    /// The only exposure that raises the risk.
    risk: &'static str,
    prevalence: u64,
}

/// The facts that hold throughout a corpus.
struct World {
    drugs: Vec<Drug>,
    diseases: Vec<Disease>,
    genes: Vec<String>,
}

impl World {
    const DRUGS_PER_CLASS: usize = 12;
    const DISEASES_PER_SYSTEM: usize = 10;
    const GENES: usize = 140;

    fn new(seed: u64) -> Self {
        let mut draw = Draw::new(seed, u64::MAX);
        let genes = distinct(Self::GENES, || {
            let letters: String =
                (0..draw.between(2, 4)).map(|_| (b'A' + draw.below(26) as u8) as char).collect();
            format!("{letters}{}", draw.between(1, 19))
        });
        let mut drugs = Vec::new();
        for (class, of) in CLASSES.iter().enumerate() {
            let names = distinct(Self::DRUGS_PER_CLASS, || {
                format!("{}{}{}", draw.pick(&DRUG_STARTS), draw.pick(&DRUG_MIDDLES), of.ending)
            });
            drugs.extend(names.into_iter().map(|name| Drug { name, class }));
        }
        let mut diseases = Vec::new();
        for (system, of) in SYSTEMS.iter().enumerate() {
            let names = distinct(Self::DISEASES_PER_SYSTEM, || {
                let ending = draw.pick(&DISEASE_ENDINGS);
                format!("{} {}{ending}", draw.pick(&COURSES), of.stem)
            });
            for name in names {
                diseases.push(Disease {
                    name,
                    system,
                    gene: draw.below(Self::GENES as u64) as usize,
                    symptom: draw.pick(&SYMPTOMS),
                    risk: draw.pick(&RISKS),
                    prevalence: draw.between(2, 90),
                });
            }
        }
        // Shuffled, because rank decides frequency and systems should be mixed.
        draw.shuffle(&mut drugs);
        draw.shuffle(&mut diseases);
        Self { drugs, diseases, genes }
    }

    fn record(&self, seed: u64, number: u64) -> SynthRecord {
        let mut draw = Draw::new(seed, number);
        let disease = &self.diseases[draw.zipf(self.diseases.len())];
        let drug = &self.drugs[draw.zipf(self.drugs.len())];
        let paper = match draw.below(10) {
            0..=3 => self.trial(&mut draw, drug, disease),
            4..=5 => self.cohort(&mut draw, disease),
            6..=7 => self.genetics(&mut draw, disease),
            8 => self.laboratory(&mut draw, drug, disease),
            _ => self.case(&mut draw, drug, disease),
        };
        let labels = ["BACKGROUND: ", "METHODS: ", "RESULTS: ", "CONCLUSIONS: "];
        let labelled = draw.below(3) > 0;
        let sections = paper.sections.iter().zip(labels);
        let body: Vec<String> = sections
            .map(|(section, label)| format!("{}{section}", if labelled { label } else { "" }))
            .collect();
        SynthRecord {
            id: format!("synth-{seed}-{number}"),
            title: paper.title,
            r#abstract: body.join(" "),
        }
    }

    /// A randomised comparison with placebo; it succeeds if the class helps in the organ system.
    fn trial(&self, draw: &mut Draw, drug: &Drug, disease: &Disease) -> Paper {
        let (class, system) = (&CLASSES[drug.class], &SYSTEMS[disease.system]);
        let (drug, disease_name) = (&drug.name, &disease.name);
        let works = class.helps.contains(&disease.system);
        let (treated, control) = (draw.between(24, 240), draw.between(24, 240));
        let weeks = draw.pick(&[4, 8, 12, 16, 24, 52]);
        let dose = draw.pick(&[5, 10, 20, 25, 40, 50, 100, 200]);
        let before = spread(draw, system.typical, 10);
        let little = (before / 50).max(1);
        // A drug that does nothing still differs from placebo by chance.
        let gain = if works {
            (before * draw.between(15, 35) / 100).max(little + 2)
        } else {
            draw.between(0, 2 * little)
        };
        let (after_treated, after_control) = if system.lower_is_better {
            (before - gain, before - little)
        } else {
            (before + gain, before + little)
        };
        let difference = after_treated.abs_diff(after_control);
        let moved = if system.lower_is_better { "fell" } else { "rose" };
        let p = if works { below_threshold(draw) } else { above_threshold(draw) };
        let events = treated * draw.between(6, 24) / 100;
        let (measure, unit) = (system.measure, system.unit);

        let title = match draw.below(3) {
            0 => format!("{} for {disease_name}: a randomised trial", capital(drug)),
            1 => format!("Efficacy of {drug} in patients with {disease_name}"),
            _ => format!("Effect of {drug} on {measure} in {disease_name}"),
        };
        let background = self.background(draw, disease)
            + &match draw.below(2) {
                0 => format!(" {} is a {} that {}.", capital(drug), class.name, class.action),
                _ => format!(" The {} {drug} {}.", class.name, class.action),
            };
        let methods = match draw.below(2) {
            0 => format!(
                "We randomly assigned {} patients with {disease_name} to {drug} {dose} mg daily (n={treated}) or placebo (n={control}) for {weeks} weeks. The primary outcome was {measure}.",
                treated + control
            ),
            _ => format!(
                "In this double-blind trial, {treated} patients received {drug} ({dose} mg daily) and {control} received placebo for {weeks} weeks. {} was the primary outcome.",
                capital(measure)
            ),
        };
        let results = if works {
            format!(
                "After {weeks} weeks, {measure} {moved} from {before} to {after_treated} {unit} with {drug} and from {before} to {after_control} {unit} with placebo, a difference of {difference} {unit} (P = {p}). {} occurred in {events} of {treated} patients given {drug}.",
                capital(class.adverse)
            )
        } else {
            format!(
                "After {weeks} weeks, {measure} was {after_treated} {unit} with {drug} and {after_control} {unit} with placebo, a difference of {difference} {unit} (P = {p}). {} occurred in {events} of {treated} patients given {drug}.",
                capital(class.adverse)
            )
        };
        let conclusion = match (works, draw.below(2)) {
            (true, 0) => {
                format!("{} improved {measure} in patients with {disease_name}.", capital(drug))
            }
            (true, _) => format!(
                "In {disease_name}, {drug} was superior to placebo. Patients should be told about {}.",
                class.adverse
            ),
            (false, 0) => format!(
                "{} did not improve {measure} in patients with {disease_name}.",
                capital(drug)
            ),
            (false, _) => format!(
                "In {disease_name}, {drug} was not superior to placebo and cannot be recommended."
            ),
        };
        Paper { title, sections: [background, methods, results, conclusion] }
    }

    /// An exposure and the risk of a disease; only the disease's own risk factor raises it.
    fn cohort(&self, draw: &mut Draw, disease: &Disease) -> Paper {
        let name = &disease.name;
        let risk = if draw.below(2) == 0 { disease.risk } else { draw.pick(&RISKS) };
        let harmful = risk == disease.risk;
        let (exposed, free) = (draw.between(400, 4000), draw.between(400, 4000));
        let years = draw.between(3, 18);
        let rate = draw.between(2, 9);
        let ratio = if harmful { draw.between(150, 320) } else { draw.between(94, 108) };
        let (low, high) =
            (ratio * draw.between(80, 88) / 100, ratio * draw.between(114, 126) / 100);
        let ill_exposed = exposed * rate * ratio / 10_000;
        let ill_free = free * rate / 100;
        let (ratio, low, high) = (hundredths(ratio), hundredths(low), hundredths(high));

        let title = match draw.below(2) {
            0 => format!("{} and the risk of {name}: a cohort study", capital(risk)),
            _ => format!("Is {risk} associated with {name}?"),
        };
        let background = self.background(draw, disease)
            + &format!(" Whether {risk} contributes to {name} is uncertain.");
        let methods = format!(
            "We followed {} adults, {exposed} with {risk} and {free} without, for {years} years. Hazard ratios were adjusted for age and sex.",
            exposed + free
        );
        let results = format!(
            "{} developed in {ill_exposed} of {exposed} participants with {risk} and in {ill_free} of {free} without. The hazard ratio was {ratio} (95% confidence interval {low} to {high}).",
            capital(name)
        );
        let conclusion = match (harmful, draw.below(2)) {
            (true, 0) => format!("{} was associated with a higher risk of {name}.", capital(risk)),
            (true, _) => format!(
                "Adults with {risk} more often develop {name}; prevention should address it."
            ),
            (false, 0) => format!("{} was not associated with the risk of {name}.", capital(risk)),
            (false, _) => format!("We found no evidence that {risk} contributes to {name}."),
        };
        Paper { title, sections: [background, methods, results, conclusion] }
    }

    /// A variant and a disease; only the disease's own gene is associated.
    fn genetics(&self, draw: &mut Draw, disease: &Disease) -> Paper {
        let name = &disease.name;
        let own = draw.below(3) > 0;
        let gene = if own { disease.gene } else { draw.zipf(self.genes.len()) };
        let associated = gene == disease.gene;
        let gene = &self.genes[gene];
        let (cases, controls) = (draw.between(80, 900), draw.between(80, 900));
        let carried_controls = draw.between(8, 20);
        let carried_cases = if associated {
            carried_controls * draw.between(18, 28) / 10
        } else {
            carried_controls + draw.below(3) - 1
        };
        let odds = carried_cases * (100 - carried_controls) * 100
            / ((100 - carried_cases) * carried_controls);
        let p = if associated { below_threshold(draw) } else { above_threshold(draw) };
        let odds = hundredths(odds);

        let title = match draw.below(2) {
            0 => format!("Variants of {gene} in {name}"),
            _ => format!("{gene} polymorphism and susceptibility to {name}: a case-control study"),
        };
        let background = self.background(draw, disease)
            + &format!(" {gene} is expressed in the {}.", SYSTEMS[disease.system].organ);
        let methods = format!(
            "We genotyped {cases} patients with {name} and {controls} healthy controls, {} people in all, for a variant of {gene}.",
            cases + controls
        );
        let results = format!(
            "The variant was carried by {carried_cases}% of patients and {carried_controls}% of controls (odds ratio {odds}, P = {p})."
        );
        let conclusion = match (associated, draw.below(2)) {
            (true, 0) => format!("{gene} is a susceptibility gene for {name}."),
            (true, _) => format!("Carriers of the {gene} variant are more likely to have {name}."),
            (false, 0) => format!("{gene} is not a susceptibility gene for {name}."),
            (false, _) => {
                format!("The {gene} variant was as common in patients with {name} as in controls.")
            }
        };
        Paper { title, sections: [background, methods, results, conclusion] }
    }

    /// A drug on cells: the mechanism of its class, and protection where the class helps.
    fn laboratory(&self, draw: &mut Draw, drug: &Drug, disease: &Disease) -> Paper {
        let (class, system) = (&CLASSES[drug.class], &SYSTEMS[disease.system]);
        let (drug, name, gene) = (&drug.name, &disease.name, &self.genes[disease.gene]);
        let protects = class.helps.contains(&disease.system);
        let (low, high) = (draw.between(1, 9), draw.between(20, 90));
        let before = draw.between(30, 50);
        let after = if protects { before + draw.between(20, 40) } else { before + 1 };
        let title =
            format!("{} and {gene} expression in {} cells", capital(drug), system.adjective);
        let background = self.background(draw, disease)
            + &format!(
                " {gene} is the gene most often altered. {} is a {}.",
                capital(drug),
                class.name
            );
        let methods = format!(
            "Cultured {} cells lacking {gene} were exposed to {drug} at {low} or {high} nmol/L for 48 hours. Viability was measured in triplicate.",
            system.adjective
        );
        let results = format!(
            "{} {} at both concentrations. Viability was {before}% without {drug} and {after}% at {high} nmol/L, an increase of {} percentage points.",
            capital(drug),
            class.action,
            after - before
        );
        let conclusion = if protects {
            format!(
                "{} protects {} cells lacking {gene} and deserves study in {name}.",
                capital(drug),
                system.adjective
            )
        } else {
            format!("{} does not protect {} cells lacking {gene}.", capital(drug), system.adjective)
        };
        Paper { title, sections: [background, methods, results, conclusion] }
    }

    /// One patient: the disease's symptom, the disease, the drug, what became of it.
    fn case(&self, draw: &mut Draw, drug: &Drug, disease: &Disease) -> Paper {
        let (class, system) = (&CLASSES[drug.class], &SYSTEMS[disease.system]);
        let (drug, name, symptom) = (&drug.name, &disease.name, disease.symptom);
        let recovers = class.helps.contains(&disease.system);
        let age =
            if name.starts_with("juvenile") { draw.between(4, 17) } else { draw.between(24, 88) };
        let (who, pronoun) = draw.pick(&[("woman", "She"), ("man", "He")]);
        let who = match (age < 18, who) {
            (true, "woman") => "girl",
            (true, _) => "boy",
            (false, who) => who,
        };
        let months = draw.between(2, 12);
        let title = format!("{} in a {age}-year-old {who} treated with {drug}", capital(name));
        let background = self.background(draw, disease);
        let methods = format!(
            "A {age}-year-old {who} presented with {symptom} of {months} months. Examination of the {} led to the diagnosis of {name}. {pronoun} was given {drug}, a {}.",
            system.organ, class.name
        );
        let weeks = draw.between(2, 9);
        let results = if recovers {
            format!(
                "Within {weeks} weeks the {symptom} resolved and {} returned towards normal.",
                system.measure
            )
        } else {
            format!(
                "After {weeks} weeks the {symptom} persisted and {} was unchanged; {drug} was stopped.",
                system.measure
            )
        };
        let conclusion = if recovers {
            format!("{} may be considered in {name} that presents with {symptom}.", capital(drug))
        } else {
            format!("This case does not support the use of {drug} in {name}.")
        };
        Paper { title, sections: [background, methods, results, conclusion] }
    }

    /// What is always true of a disease.
    fn background(&self, draw: &mut Draw, disease: &Disease) -> String {
        let (name, system) = (capital(&disease.name), &SYSTEMS[disease.system]);
        match draw.below(4) {
            0 => format!(
                "{name} affects {} in 100,000 people and typically causes {}.",
                disease.prevalence, disease.symptom
            ),
            1 => format!(
                "{name} is a {} disease whose main symptom is {}.",
                system.adjective, disease.symptom
            ),
            2 => format!("Treatment of {} aims to improve {}.", disease.name, system.measure),
            _ => format!("{name} damages the {} and is linked to {}.", system.organ, disease.risk),
        }
    }
}

struct Paper {
    title: String,
    /// Background, methods, results, conclusions.
    sections: [String; 4],
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

/// 123 → "1.23".
fn hundredths(value: u64) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}

/// A whole number within `percent` of `value`.
fn spread(draw: &mut Draw, value: u64, percent: u64) -> u64 {
    draw.between(value * (100 - percent) / 100, value * (100 + percent) / 100)
}

/// A P value that counts as significant.
fn below_threshold(draw: &mut Draw) -> String {
    format!("0.0{:02}", draw.between(1, 39))
}

/// A P value that does not.
fn above_threshold(draw: &mut Draw) -> String {
    format!("0.{:02}", draw.between(12, 94))
}

/// `count` different strings, in the order drawn.
fn distinct(count: usize, mut next: impl FnMut() -> String) -> Vec<String> {
    let mut found: Vec<String> = Vec::with_capacity(count);
    while found.len() < count {
        let candidate = next();
        if !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// Draws whose mapping from random bits is fixed here, so that no library update can change the
/// corpus of a seed.
struct Draw(ChaCha8Rng);

impl Draw {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        Self(random)
    }

    /// 0..`n`, evenly.
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// `low..=high`, evenly.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// 0..`n`, rank `r` with a weight proportional to `1 / (r + 1)`, in whole numbers so that all
    /// machines agree.
    fn zipf(&mut self, n: usize) -> usize {
        let weight = |rank: usize| 1_000_000 / (rank as u64 + 1);
        let mut left = self.below((0..n).map(weight).sum());
        (0..n)
            .find(|&rank| match left.checked_sub(weight(rank)) {
                Some(rest) => {
                    left = rest;
                    false
                }
                None => true,
            })
            .unwrap_or(n - 1)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_has_one_corpus() {
        let first: Vec<SynthRecord> = records(11).take(40).collect();
        assert!(records(11).take(40).eq(first.iter().cloned()));
        assert_ne!(records(12).next(), first.first().cloned());
        // Pinned: a change here changes every published number that used the corpus.
        let hash = blake3::hash(serde_json::to_string(&first).expect("JSON").as_bytes());
        assert_eq!(&hash.to_hex()[..16], "5c4ddbd7110b1450");
    }

    #[test]
    fn what_is_written_can_be_read_whatever_the_compression() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
            let path = folder.path().join(name);
            write(&path, 2, 10, &mut |_| ControlFlow::Continue(())).expect("write");
            let bytes = std::fs::read(&path).expect("read");
            let read: Vec<String> = crate::source::testing::records(name, &bytes)
                .into_iter()
                .map(|record| format!("{}\n{}", record.title, record.paragraphs.concat()))
                .collect();
            let made: Vec<String> =
                records(2).take(10).map(|r| format!("{}\n{}", r.title, r.r#abstract)).collect();
            assert_eq!(read, made);
        }
        assert!(
            write(&folder.path().join("a.txt"), 2, 1, &mut |_| ControlFlow::Continue(())).is_err()
        );
        let stopped = write(&folder.path().join("b.jsonl"), 2, 10, &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(DataError::Interrupted)));
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 3);
    }

    #[test]
    fn texts_are_varied_and_well_formed() {
        let corpus: Vec<SynthRecord> = records(1).take(2000).collect();
        let distinct: HashSet<&str> = corpus.iter().map(|r| r.r#abstract.as_str()).collect();
        assert!(distinct.len() > 1990, "{}", distinct.len());
        let words: HashSet<&str> = corpus.iter().flat_map(|r| r.r#abstract.split(' ')).collect();
        assert!(words.len() > 1000, "{}", words.len());
        for record in &corpus {
            let text = &record.r#abstract;
            assert!(text.ends_with('.') && !text.contains("  ") && !text.contains('\n'), "{text}");
            assert!((150..1200).contains(&text.len()), "{text}");
            assert!(
                record.title.chars().next().is_some_and(char::is_uppercase),
                "{}",
                record.title
            );
        }
    }

    #[test]
    fn conclusions_follow_from_the_names() {
        for record in records(5).take(3000) {
            let text = &record.r#abstract;
            let Some(drug) = text.split("received ").nth(1).and_then(|t| t.split(' ').next())
            else {
                continue;
            };
            let class = CLASSES.iter().find(|c| drug.ends_with(c.ending)).expect("a known class");
            let system = SYSTEMS.iter().position(|s| text.contains(s.measure)).expect("a measure");
            let helps = class.helps.contains(&system);
            let negative = text.contains("did not improve") || text.contains("not superior");
            assert_eq!(negative, !helps, "{text}");
        }
    }

    #[test]
    fn sums_and_differences_are_right() {
        let number = |text: &str, after: &str| -> Option<u64> {
            let digits = text.split(after).nth(1)?;
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let mut checked = 0;
        for record in records(9).take(500) {
            let text = &record.r#abstract;
            if let (Some(all), Some(treated), Some(control)) = (
                number(text, "randomly assigned "),
                number(text, "daily (n="),
                number(text, "placebo (n="),
            ) {
                assert_eq!(all, treated + control, "{text}");
                checked += 1;
            }
        }
        assert!(checked > 30, "{checked}");
    }
}
