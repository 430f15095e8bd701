//! `mainstay run -- COMMAND`: a workload without a file.

use crate::raw::{INSTANCES_LIMIT, LISTEN};
use model::name::{ComponentName, EnvironmentName, WorkloadName};
use model::template::Template;
use model::workload::{
    Class, Configuration, GatewaySettings, Limits, Listen, Notify, RUN_VALUES, Ready, ReleasePolicy, Service,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The most instances of a command.
pub const COMMAND_INSTANCES_LIMIT: u32 = INSTANCES_LIMIT;

/// How long a command may take to become ready: longer than a file's default, because what is tried out is
/// often built or warmed first.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a command may drain: shorter than a file's default, because somebody waits at the terminal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Nobody proves anything with `mainstay run` but to themselves.
const CLASS: Class = Class::Development;

/// What `mainstay run` was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOptions {
    /// The environment to make.
    pub environment: EnvironmentName,
    /// Program and arguments. `{port}` and the other [`RUN_VALUES`] in them are filled in; all other braces
    /// are literal.
    pub command: Vec<String>,
    /// Where the gateway listens.
    pub listen: Listen,
    /// How many instances; 1 to [`COMMAND_INSTANCES_LIMIT`].
    pub instances: u32,
    /// How long an instance may take to answer its first request. Not zero.
    pub ready_timeout: Duration,
    /// How long the old stamp stays warm after a promotion.
    pub keep_old: Duration,
}

impl CommandOptions {
    /// One instance of `command` behind 127.0.0.1:8080, in an environment called `run`.
    pub fn new(command: Vec<String>) -> Self {
        Self {
            environment: EnvironmentName::new("run").expect("`run` is a name"),
            command,
            listen: Listen {
                http: LISTEN.parse().expect("the default is an address"),
                admin: None,
                trusted_proxies: Vec::new(),
            },
            instances: 1,
            ready_timeout: READY_TIMEOUT,
            keep_old: ReleasePolicy::of(CLASS).keep_old,
        }
    }
}

/// Why a command cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No program.
    #[error("there is no command to run; it stands after `--`, such as `mainstay run -- ./server`")]
    Empty,
    /// A character that no argument of a process can hold.
    #[error("argument {0} of the command holds the character NUL")]
    Nul(usize),
    /// None, or too many.
    #[error("{0} instances; it takes 1 to {COMMAND_INSTANCES_LIMIT}")]
    Instances(u32),
    /// No time to become ready in.
    #[error("a command needs some time to become ready, not zero")]
    ReadyTimeout,
}

/// The configuration of a workload `run` whose one service `app` is a command; its class is development.
///
/// # Errors
/// When there is no command or a number is out of its range.
pub fn for_command(options: CommandOptions) -> Result<Configuration, CommandError> {
    if options.command.first().is_none_or(String::is_empty) {
        return Err(CommandError::Empty);
    }
    if let Some(index) = options.command.iter().position(|argument| argument.contains('\0')) {
        return Err(CommandError::Nul(index));
    }
    if !(1..=COMMAND_INSTANCES_LIMIT).contains(&options.instances) {
        return Err(CommandError::Instances(options.instances));
    }
    if options.ready_timeout.is_zero() {
        return Err(CommandError::ReadyTimeout);
    }
    let app = ComponentName::new("app").expect("`app` is a name");
    let service = Service {
        run: options.command.iter().map(|argument| lenient(argument)).collect(),
        artifact: PathBuf::from("."),
        http: true,
        instances: options.instances,
        needs: Vec::new(),
        address_as: None,
        env: BTreeMap::new(),
        ready: Ready { get: None, timeout: options.ready_timeout },
        live: None,
        limits: Limits::default(),
        drain_timeout: DRAIN_TIMEOUT,
    };
    Ok(Configuration {
        workload: WorkloadName::new("run").expect("`run` is a name"),
        environment: options.environment,
        class: CLASS,
        listen: options.listen,
        services: BTreeMap::from([(app.clone(), service)]),
        stores: BTreeMap::new(),
        externals: BTreeMap::new(),
        gateway: GatewaySettings::of(app),
        flows: BTreeMap::new(),
        policy: ReleasePolicy { keep_old: options.keep_old, ..ReleasePolicy::of(CLASS) },
        notify: Notify::default(),
    })
}

/// A text in which only known values are values. People pass JSON and shell text on a command line, and
/// nobody doubles braces there.
fn lenient(text: &str) -> Template {
    let mut strict = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        strict.push_str(&rest[..at]);
        let brace = &rest[at..];
        let value = RUN_VALUES
            .iter()
            .find(|name| brace[1..].strip_prefix(**name).is_some_and(|after| after.starts_with('}')))
            .filter(|_| brace.starts_with('{'))
            .map(|name| name.len() + 2);
        let length = value.unwrap_or(1);
        strict.push_str(&brace[..length]);
        if value.is_none() {
            strict.push_str(&brace[..1]);
        }
        rest = &brace[length..];
    }
    strict.push_str(rest);
    Template::parse(&strict, |name| RUN_VALUES.contains(&name))
        .expect("every brace is doubled or belongs to a known value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn rendered(text: &str) -> String {
        lenient(text).render(|name| (name == "port").then_some(Cow::Borrowed("80"))).unwrap()
    }

    #[test]
    fn only_known_values_are_values() {
        let table = [
            ("", ""),
            ("--port={port}", "--port=80"),
            (r#"{"a": {"b": 1}}"#, r#"{"a": {"b": 1}}"#),
            ("{prt}", "{prt}"),
            ("{{port}}", "{80}"),
            ("{port", "{port"),
            ("port}", "port}"),
            ("}{port}{", "}80{"),
            ("é{port}é}", "é80é}"),
            ("${HOME}", "${HOME}"),
        ];
        for (text, expected) in table {
            assert_eq!(rendered(text), expected, "{text}");
        }
    }

    #[test]
    fn a_command_becomes_a_workload_of_one_service() {
        let command = vec!["./app".to_owned(), "{port}".to_owned()];
        let options = CommandOptions { instances: 3, ..CommandOptions::new(command) };
        let configuration = for_command(options).unwrap();
        assert_eq!(configuration.environment.as_str(), "run");
        assert_eq!(configuration.listen.http.to_string(), "127.0.0.1:8080");
        assert_eq!(configuration.gateway.default.as_str(), "app");
        let service = &configuration.services[&configuration.gateway.default];
        assert_eq!(service.instances, 3);
        assert_eq!(service.run.len(), 2);
        assert_eq!(service.run[1].names().collect::<Vec<_>>(), ["port"]);
        assert_eq!(configuration.policy, ReleasePolicy::of(Class::Development));
        assert_eq!(service.ready, Ready { get: None, timeout: Duration::from_secs(30) });
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let good = CommandOptions::new(vec!["./app".to_owned()]);
        let table = [
            (CommandOptions::new(vec![]), CommandError::Empty),
            (CommandOptions::new(vec![String::new()]), CommandError::Empty),
            (CommandOptions::new(vec!["a".to_owned(), "b\0".to_owned()]), CommandError::Nul(1)),
            (CommandOptions { instances: 0, ..good.clone() }, CommandError::Instances(0)),
            (CommandOptions { instances: 65, ..good.clone() }, CommandError::Instances(65)),
            (CommandOptions { ready_timeout: Duration::ZERO, ..good }, CommandError::ReadyTimeout),
        ];
        for (options, error) in table {
            assert_eq!(for_command(options), Err(error));
        }
    }

    proptest! {
        #[test]
        fn a_text_without_known_values_stays_as_it_is(text in "[a-z{}\" :é]{0,40}") {
            prop_assume!(!RUN_VALUES.iter().any(|name| text.contains(&format!("{{{name}}}"))));
            prop_assert_eq!(rendered(&text), text);
        }
    }
}
