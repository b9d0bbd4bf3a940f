//! `loadtest`: runs one load test, prints its table, writes its JSON.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use loadtest::Options;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the server did well, and this process had the CPU to tell.
async fn run(options: Options) -> anyhow::Result<bool> {
    let (json, plot) = (options.json.clone(), options.plot.clone());
    let report = loadtest::run(options).await?;
    print!("{report}");
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report).context("writing the report as JSON")?;
        std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = plot {
        std::fs::write(&path, loadtest::svg(&report)).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report.faults.is_empty() && !report.client_saturated)
}
