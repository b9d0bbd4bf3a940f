//! `hostile`: attacks a server, prints its table, writes its JSON.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use loadtest::hostile::{self, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostile: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the server held against everything.
async fn run(options: Options) -> anyhow::Result<bool> {
    if options.list {
        for attack in hostile::list() {
            println!("{:<28}{:<11}{}", attack.name, attack.kind.name(), attack.about);
        }
        return Ok(true);
    }
    let (json, quiet) = (options.json.clone(), options.quiet);
    let report = hostile::run(options, |row| {
        if !quiet {
            eprintln!("  {}", row.verdict());
        }
    })
    .await?;
    print!("{report}");
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report).context("writing the report as JSON")?;
        std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report.rows.iter().all(|row| row.faults().is_empty()))
}
