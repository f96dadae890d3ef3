//! The tool that looks at a running daemon.

mod capture;
mod cli;
mod events;
mod host;
mod show;
mod table;
mod talk;

use clap::{CommandFactory, Parser};
use cli::{Cli, ClientVerb, Command, ConfigFile, ConfigVerb, Format, NicVerb};
use serde_json::Value;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use talk::TalkError;
use usnet_shmring::control::QueryKind;
use usnet_switch::ask::Daemon;
use usnet_switch::config::Config;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Man => usnet_switch::manual::write_man(&Cli::command()).map_err(TalkError::Output),
        Command::Completions { shell } => {
            usnet_switch::manual::write_completions(&mut Cli::command(), *shell);
            Ok(())
        }
        command => ask(&cli, command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("usnetctl: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Answers once, or again and again.
fn ask(cli: &Cli, command: &Command) -> Result<(), TalkError> {
    if let Command::Config { verb: ConfigVerb::Check(ConfigFile { file }) } = command {
        Config::load(file).map_err(TalkError::Config)?;
        return print(&format!("{} is right\n", file.display())).map(drop);
    }
    let mut daemon = Daemon::connect(&cli.socket())?;
    if let Command::Events { all } = command {
        return events::follow(daemon, &cli.socket(), *all, cli.format());
    }
    if let Command::Capture(args) = command {
        return capture::run(&mut daemon, args);
    }
    loop {
        let text = answer(&mut daemon, cli.format(), command)?;
        let Some(every) = cli.watch else { return print(&text).map(drop) };
        // A person sees one page, a program one document after the other.
        let clear = io::stdout().is_terminal() && cli.format() == Format::Table;
        if !print(&if clear { format!("\x1b[H\x1b[2J{text}") } else { text })? {
            return Ok(());
        }
        std::thread::sleep(every);
        // It was silent for too long to be still there.
        daemon = Daemon::connect(&cli.socket())?;
    }
}

/// Whether somebody still reads. A reader that has seen enough is no failure.
fn print(text: &str) -> Result<bool, TalkError> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(TalkError::Output(error)),
        Ok(()) => Ok(true),
    }
}

/// The answer to one question, as it is to be printed.
fn answer(daemon: &mut Daemon, format: Format, command: &Command) -> Result<String, TalkError> {
    let kind = match command {
        Command::Status | Command::Nic { .. } => QueryKind::Status,
        Command::Client { verb: Some(ClientVerb::Detach { .. }) } => QueryKind::DetachClient,
        Command::Client { .. } => QueryKind::Clients,
        Command::Rule { .. } => QueryKind::Rules,
        Command::Stats => QueryKind::Stats,
        Command::Explain(_) => QueryKind::Explain,
        Command::Config { verb: ConfigVerb::Apply(_) } => QueryKind::ApplyConfig,
        Command::Config { .. } => QueryKind::DiffConfig,
        Command::Flow { .. } => QueryKind::Flows,
        Command::Host => QueryKind::Host,
        Command::Man
        | Command::Completions { .. }
        | Command::Events { .. }
        | Command::Capture(_) => {
            return Ok(String::new());
        }
    };
    let which = match command {
        Command::Client { verb: Some(ClientVerb::Detach { id }) } => *id,
        Command::Flow { verb: Some(cli::FlowVerb::List { limit }) } => *limit,
        _ => 0,
    };
    // JSON is passed on as it came, its keys in the daemon's order.
    let (mut json, mut answer) = match command {
        Command::Explain(cli::Explain { interface, protocol, source, destination }) => {
            daemon.ask(kind, &format!("{interface} {protocol} {source} {destination}"))?
        }
        Command::Config {
            verb: ConfigVerb::Apply(args) | ConfigVerb::Diff(args) | ConfigVerb::Check(args),
        } => {
            let file = std::path::absolute(&args.file).unwrap_or_else(|_| args.file.clone());
            daemon.ask(kind, &file.to_string_lossy())?
        }
        _ => daemon.query(kind, which)?,
    };
    if let Command::Client { verb: Some(ClientVerb::Show { id }) } = command {
        let is_it = |client: &&Value| client["id"].as_u64() == Some(u64::from(*id));
        let found = answer.as_array().and_then(|all| all.iter().find(is_it)).cloned();
        answer = found.ok_or(TalkError::NoClient { id: *id })?;
        json = answer.to_string();
    }
    if let Command::Nic { verb } = command {
        answer = answer["interfaces"].take();
        if let Some(NicVerb::Show { name }) = verb {
            let all = answer.as_array().into_iter().flatten();
            let found = all.into_iter().find(|nic| nic["ifname"] == *name).cloned();
            answer = found.ok_or_else(|| TalkError::NoInterface { name: name.clone() })?;
        }
        json = answer.to_string();
    }
    if let Command::Flow { .. } = command {
        // Lists are arrays; what is left out is said beside.
        let left_out = answer["left_out"].as_u64().unwrap_or(0);
        if left_out > 0 {
            eprintln!("usnetctl: {left_out} flows more are left out; see --limit");
        }
        answer = answer["flows"].take();
        json = answer.to_string();
    }
    let text = match (format, command) {
        (Format::Json, _) => format!("{json}\n"),
        (Format::PrettyJson, _) => format!("{answer:#}\n"),
        (Format::Table, Command::Status) => show::status(&answer),
        (Format::Table, Command::Client { verb: None | Some(ClientVerb::List) }) => {
            show::clients(&answer)
        }
        (Format::Table, Command::Client { verb: Some(ClientVerb::Show { .. }) }) => {
            show::client(&answer)
        }
        (Format::Table, Command::Client { verb: Some(ClientVerb::Detach { id }) }) => {
            format!("client {id} detached\n")
        }
        (Format::Table, Command::Nic { verb: Some(NicVerb::Show { .. }) }) => show::nic(&answer),
        (Format::Table, Command::Nic { .. }) => show::nics(&answer),
        (Format::Table, Command::Rule { .. }) => show::rules(&answer),
        (Format::Table, Command::Flow { .. }) => show::flows(&answer),
        (Format::Table, Command::Host) => host::host(&answer),
        (Format::Table, Command::Config { .. }) => show::differences(&answer),
        (Format::Table, Command::Explain(_)) => show::explained(&answer),
        (Format::Table, _) => show::stats(&answer),
    };
    Ok(text)
}
