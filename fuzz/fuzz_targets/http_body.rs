//! Bodies of requests to the server. Its modules belong to the program, so they are taken from there.
#![no_main]
#![allow(dead_code, reason = "the program needs the rest")]

#[path = "../../cli/serve/object.rs"]
mod object;
#[path = "../../cli/serve/problem.rs"]
mod problem;
#[path = "../../cli/serve/prompt.rs"]
mod prompt;
#[path = "../../cli/serve/request.rs"]
mod request;

use prompt::{MOST_CHOICES, MOST_STOPS, MOST_TOKENS, Prompt};
use request::Body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match object::read::<Body>(bytes).and_then(Body::check) {
        Ok(wanted) => {
            let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
            assert_eq!(first, Some(&b'{'), "only an object is a request");
            let prompts = wanted.prompt.count();
            assert!(prompts > 0 && prompts * wanted.samples <= MOST_CHOICES);
            match &wanted.prompt {
                Prompt::Ids(ids) => assert!(ids.len() <= MOST_TOKENS),
                Prompt::ManyIds(lists) => assert!(lists.iter().all(|ids| ids.len() <= MOST_TOKENS)),
                Prompt::Text(_) | Prompt::Texts(_) => {}
            }
            let options = &wanted.options;
            assert!(options.temperature >= 0.0 && options.temperature.is_finite());
            assert!(options.top_p > 0.0 && options.top_p <= 1.0 && options.top_k != Some(0));
            assert!(options.stop.len() <= MOST_STOPS && !options.stop.contains(&String::new()));
            assert!(options.max_tokens > 0 || wanted.echo);
            assert!(options.top_logprobs.is_none_or(|top| top <= 100 && !wanted.stream));
        }
        Err(problem) => {
            let message = problem.json()["error"]["message"].as_str().map(str::to_owned);
            assert!(problem.status == 400 && message.is_some_and(|message| !message.is_empty()));
        }
    }
});
