//! The kinds of papers, as sentences about the facts.

use super::draw::Draw;
use super::facts::{CLASSES, Disease, Drug, RISKS, SYSTEMS, World};

impl World {
    /// A paper of a random kind about a random drug and disease.
    pub fn paper(&self, draw: &mut Draw) -> Paper {
        let disease = &self.diseases[draw.zipf(self.diseases.len())];
        let drug = &self.drugs[draw.zipf(self.drugs.len())];
        match draw.below(10) {
            0..=3 => self.trial(draw, drug, disease),
            4..=5 => self.cohort(draw, disease),
            6..=7 => self.genetics(draw, disease),
            8 => self.laboratory(draw, drug, disease),
            _ => self.case(draw, drug, disease),
        }
    }

    /// A randomised comparison with placebo; it succeeds if the class helps in the organ system.
    pub fn trial(&self, draw: &mut Draw, drug: &Drug, disease: &Disease) -> Paper {
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

/// One paper.
pub(crate) struct Paper {
    pub title: String,
    /// Background, methods, results, conclusions.
    pub sections: [String; 4],
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
