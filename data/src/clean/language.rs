//! Names of languages.

/// Two letters, and what else is written for them: the codes of ISO 639-2, and names in English and in
/// the language itself.
const LANGUAGES: [(&str, &[&str]); 32] = [
    ("ar", &["ara", "arabic"]),
    ("bg", &["bul", "bulgarian"]),
    ("ca", &["cat", "catalan"]),
    ("cs", &["cze", "ces", "czech"]),
    ("da", &["dan", "danish", "dansk"]),
    ("de", &["ger", "deu", "german", "deutsch"]),
    ("el", &["gre", "ell", "greek"]),
    ("en", &["eng", "english"]),
    ("es", &["spa", "spanish", "español", "castellano", "castilian"]),
    ("fa", &["per", "fas", "persian", "farsi"]),
    ("fi", &["fin", "finnish", "suomi"]),
    ("fr", &["fre", "fra", "french", "français"]),
    ("he", &["heb", "hebrew"]),
    ("hr", &["hrv", "scr", "croatian"]),
    ("hu", &["hun", "hungarian", "magyar"]),
    ("id", &["ind", "indonesian"]),
    ("it", &["ita", "italian", "italiano"]),
    ("ja", &["jpn", "japanese"]),
    ("ko", &["kor", "korean"]),
    ("nl", &["dut", "nld", "dutch", "nederlands"]),
    ("no", &["nor", "nob", "nno", "norwegian", "norsk"]),
    ("pl", &["pol", "polish", "polski"]),
    ("pt", &["por", "portuguese", "português"]),
    ("ro", &["rum", "ron", "romanian"]),
    ("ru", &["rus", "russian"]),
    ("sk", &["slo", "slk", "slovak"]),
    ("sl", &["slv", "slovenian"]),
    ("sr", &["srp", "scc", "serbian"]),
    ("sv", &["swe", "swedish", "svenska"]),
    ("tr", &["tur", "turkish"]),
    ("uk", &["ukr", "ukrainian"]),
    ("zh", &["chi", "zho", "chinese"]),
];

/// A language tag (`en-US`, `EN`), a three-letter code as PubMed has them, or a name, as two letters;
/// what is not known stays, in lower case.
pub fn two_letters(language: &str) -> String {
    let tag = language.trim().to_lowercase();
    let primary = tag.split(['-', '_', ' ', '(']).next().unwrap_or_default();
    let known = LANGUAGES.iter().find(|(_, names)| names.contains(&primary));
    known.map_or(primary, |(letters, _)| letters).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_two_letters() {
        for language in ["en", "EN-gb", "eng", " English ", "english (US)", "en_US"] {
            assert_eq!(two_letters(language), "en", "{language}");
        }
        for (letters, names) in LANGUAGES {
            for name in names {
                assert_eq!(two_letters(&name.to_uppercase()), letters, "{name}");
            }
        }
        let all = || LANGUAGES.iter().flat_map(|(_, names)| names.iter());
        assert!(all().all(|name| all().filter(|other| *other == name).count() == 1));
        assert_eq!((two_letters("Xhosa").as_str(), two_letters("").as_str()), ("xhosa", ""));
    }
}
