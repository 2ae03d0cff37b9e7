//! What is true throughout a corpus: organ systems, classes of drugs, and the names of a seed.

use super::draw::Draw;

/// An organ system: adjective, organ, word stem, what is measured, its unit, whether lower is
/// better, and a typical value.
pub(crate) struct System {
    pub adjective: &'static str,
    pub organ: &'static str,
    pub stem: &'static str,
    pub measure: &'static str,
    pub unit: &'static str,
    pub lower_is_better: bool,
    pub typical: u64,
}

const fn system(words: [&'static str; 5], lower_is_better: bool, typical: u64) -> System {
    let [adjective, organ, stem, measure, unit] = words;
    System { adjective, organ, stem, measure, unit, lower_is_better, typical }
}

pub(crate) const SYSTEMS: [System; 12] = [
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
pub(crate) struct Class {
    pub ending: &'static str,
    pub name: &'static str,
    pub action: &'static str,
    pub helps: [usize; 3],
    pub adverse: &'static str,
}

const fn class(words: [&'static str; 4], helps: [usize; 3]) -> Class {
    let [ending, name, action, adverse] = words;
    Class { ending, name, action, helps, adverse }
}

pub(crate) const CLASSES: [Class; 12] = [
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
pub(crate) const RISKS: [&str; 10] = [
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

pub(crate) struct Drug {
    pub name: String,
    pub class: usize,
}

pub(crate) struct Disease {
    pub name: String,
    pub system: usize,
    pub gene: usize,
    pub symptom: &'static str,
    /// The only exposure that raises the risk.
    pub risk: &'static str,
    pub prevalence: u64,
}

/// The facts that hold throughout a corpus.
pub(crate) struct World {
    pub drugs: Vec<Drug>,
    pub diseases: Vec<Disease>,
    pub genes: Vec<String>,
}

impl World {
    const DRUGS_PER_CLASS: usize = 12;
    const DISEASES_PER_SYSTEM: usize = 10;
    const GENES: usize = 140;

    /// The facts of a seed.
    pub fn new(seed: u64) -> Self {
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
