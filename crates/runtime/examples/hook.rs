//! An agent that does nothing but run one hook, for the tests of this room: they kill it in the middle.

use api::folder::StateFolder;
use api::shim::Start;
use model::name::FenceToken;
use runtime::Driver;
use std::process::ExitCode;
use std::time::Duration;

/// How long the hook may take. Reached only when a test fails.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [state, start, shim] = words.as_slice() else {
        eprintln!("usage: hook STATE START-AS-JSON SHIM");
        return ExitCode::from(2);
    };
    let start: Start = match serde_json::from_str(start) {
        Ok(start) => start,
        Err(error) => {
            eprintln!("the start does not parse: {error}");
            return ExitCode::from(2);
        }
    };
    let driver = Driver::new(StateFolder::new(state), FenceToken(1)).with_shim_command(vec![shim.into()]);
    match driver.run_hook(&start, LIMIT).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the hook {error}");
            ExitCode::FAILURE
        }
    }
}
