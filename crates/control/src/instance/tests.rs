use super::*;

#[test]
fn only_an_end_that_nobody_asked_for_is_a_crash() {
    let exit =
        |asked| Exit { v: api::PROTOCOL_VERSION, code: Some(0), signal: None, not_started: None, asked };
    let not_ready = |asked| {
        let after = Duration::ZERO;
        never_ready(&NotReady::Exited { exit: exit(asked), after, lines: Vec::new() }, 0)
    };
    assert!(matches!(over(&exit(true)), Life::Replaced { .. }));
    assert!(matches!(not_ready(true), Life::Replaced { .. }));
    assert!(matches!(over(&exit(false)), Life::Over { blameless: false, was_ready: true, .. }));
    assert!(matches!(not_ready(false), Life::Over { blameless: false, was_ready: false, .. }));
}

#[test]
fn the_variable_is_filled_in_and_others_are_not() {
    let table = [
        ("--port=$PORT", "--port=80"),
        ("$PORT:$PORT", "80:80"),
        ("$PORTAL $PORT_2", "$PORTAL $PORT_2"),
        ("$PORT/x", "80/x"),
        ("", ""),
    ];
    for (argument, filled) in table {
        assert_eq!(with_port(argument, 80), filled);
    }
}
