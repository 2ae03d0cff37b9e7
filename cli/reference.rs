//! `mediswift reference`: the book's chapter of all commands and settings.

use clap::Command;
use mediswift_model::finetune::settings::Settings;
use mediswift_model::study;
use mediswift_model::tasks::TASKS;
use mediswift_model::{Config, presets};
use serde_json::json;

use crate::verb::{Context, Outcome, Verb};

/// Columns of the help texts, on whatever terminal.
const WIDTH: usize = 100;

/// Print all commands and settings in Markdown, as docs/reference.md has them
#[derive(clap::Args)]
#[command(hide = true)]
pub struct Reference {}

impl Verb for Reference {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let text = markdown((context.command_line)().term_width(WIDTH))?;
        Ok(Outcome::new(json!({ "text": text }), text))
    }
}

fn markdown(mut command: Command) -> anyhow::Result<String> {
    command.build();
    let mut text = String::from(
        "# Reference\n\nAll commands and settings, as the program tells them: `mediswift reference` prints this \
         chapter.\n\n## Commands\n\n",
    );
    let own = command.clone().disable_help_subcommand(true).render_long_help().to_string();
    text += &block("text", &own);
    describe(&command, &globals(&command), &mut text);
    text += "## Settings of pre-training\n\nThe defaults of `--preset tiny`; presets differ in size, batch, steps, learning \
             rate, and how often they evaluate and save.\n\n";
    let tiny = presets::PRESETS.iter().find(|preset| preset.name == "tiny");
    text += &block("toml", &Config::new(tiny.expect("a preset")).to_commented_toml());
    text += "## Settings of fine-tuning\n\nThe recipe of `";
    text += &format!("{}`; tasks differ in epochs, batches, rates and form.\n\n", TASKS[0].name());
    text += &block("toml", &Settings::new(TASKS[0]).to_commented_toml());
    text += "## Files of studies\n\n";
    text += &study::reference();
    Ok(text)
}

/// Names of the options that every command has.
fn globals(command: &Command) -> Vec<String> {
    let globals = command.get_arguments().filter(|option| option.is_global_set());
    globals.map(|option| option.get_id().to_string()).collect()
}

/// The help of every command below this one, without the options that all have.
fn describe(command: &Command, globals: &[String], text: &mut String) {
    for verb in command.get_subcommands() {
        if verb.is_hide_set() || verb.get_name() == "help" {
            continue;
        }
        if verb.get_subcommands().next().is_some() {
            describe(verb, globals, text);
            continue;
        }
        let hidden = verb.clone().mut_args(|option| {
            let is_common =
                globals.contains(&option.get_id().to_string()) || option.get_id() == "help";
            if is_common { option.hide(true) } else { option }
        });
        let name = verb.get_bin_name().unwrap_or(verb.get_name());
        *text += &format!("### `{name}`\n\n");
        *text += &block("text", &hidden.clone().render_long_help().to_string());
    }
}

/// A text as it is, without blanks at the ends of its lines.
fn block(kind: &str, content: &str) -> String {
    let lines = content.trim().lines().map(|line| format!("{}\n", line.trim_end()));
    format!("```{kind}\n{}```\n\n", lines.collect::<String>())
}
