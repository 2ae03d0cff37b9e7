//! What a server says of its files.

use std::collections::BTreeMap;

/// Files named in a listing, by number.
pub(crate) fn names_in(listing: &str) -> BTreeMap<u32, String> {
    const ENDING: &str = ".xml.gz";
    let mut names = BTreeMap::new();
    for (at, _) in listing.match_indices("pubmed") {
        let Some(length) = listing[at..].find(ENDING).filter(|&length| length < 20) else {
            continue;
        };
        let name = &listing[at..at + length + ENDING.len()];
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts = name["pubmed".len()..length].split_once('n');
        if let Some((year, number)) = parts.filter(|(year, number)| digits(year) && digits(number))
            && let Ok(number) = number.parse()
        {
            // Of several years, the latest.
            let known: &mut String = names.entry(number).or_insert_with(|| name.to_owned());
            if name > known.as_str() && !year.is_empty() {
                *known = name.to_owned();
            }
        }
    }
    names
}

/// The sum in an `.md5` file, whichever of the usual forms it has.
pub(crate) fn md5_of_list(text: &str) -> Option<String> {
    let is_sum = |word: &&str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    text.split(|c: char| !c.is_ascii_alphanumeric()).find(is_sum).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_and_sums_are_understood() {
        let names = names_in(
            "pubmed25n0001.xml.gz pubmed26n0001.xml.gz.md5 pubmed26n0012.xml.gz pubmedxnx.xml.gz pubmed",
        );
        assert_eq!(
            names.values().collect::<Vec<_>>(),
            ["pubmed26n0001.xml.gz", "pubmed26n0012.xml.gz"]
        );
        let sum = "0123456789abcdef0123456789ABCDEF";
        for text in [format!("MD5(x.gz)= {sum}\n"), format!("{sum}  x.gz"), sum.to_owned()] {
            assert_eq!(md5_of_list(&text), Some(sum.to_lowercase()));
        }
        assert_eq!(md5_of_list("no sum"), None);
    }
}
