//! Names of languages.

/// A language tag (`en-US`, `EN`) or a three-letter code as PubMed has them, as two letters.
pub fn two_letters(language: &str) -> String {
    let tag = language.trim().to_lowercase();
    let primary = tag.split(['-', '_']).next().unwrap_or_default();
    match primary {
        "eng" | "english" => "en",
        "fre" | "fra" => "fr",
        "ger" | "deu" => "de",
        "spa" => "es",
        "ita" => "it",
        "por" => "pt",
        "jpn" => "ja",
        "chi" | "zho" => "zh",
        "rus" => "ru",
        "pol" => "pl",
        "dut" | "nld" => "nl",
        "dan" => "da",
        "swe" => "sv",
        "nor" => "no",
        "fin" => "fi",
        "hun" => "hu",
        "cze" | "ces" => "cs",
        "tur" => "tr",
        "kor" => "ko",
        "heb" => "he",
        "ukr" => "uk",
        "rum" | "ron" => "ro",
        "bul" => "bg",
        "gre" | "ell" => "el",
        other => other,
    }
    .to_owned()
}
