//! No text makes the reader panic.

use proptest::prelude::*;
use std::path::Path;

const SHOP: &str = include_str!("fixtures/shop.toml");

fn survives(text: &str) {
    if let Err(error) = workfile::parse("any", text, Path::new("/")) {
        let mut picture = String::new();
        let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor());
        handler.render_report(&mut picture, &error).expect("a report goes into a string");
        assert!(!picture.is_empty());
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
}

proptest! {
    #[test]
    fn random_text(text in ".{0,200}") {
        survives(&text);
    }

    #[test]
    fn random_toml_like_text(text in "([\\[\\]{}=.,\"'\n# ]|workload|component|name|run|step|flow|env|é|1|true){0,80}") {
        survives(&text);
    }

    #[test]
    fn the_shop_with_a_piece_replaced(at in 0..SHOP.len(), length in 0..40_usize, piece in "[\\[\\]{}=.\"'\na-z0-9$é:-]{0,12}") {
        let start = SHOP.floor_char_boundary(at);
        let end = SHOP.ceil_char_boundary((start + length).min(SHOP.len()));
        survives(&format!("{}{piece}{}", &SHOP[..start], &SHOP[end..]));
    }

    #[test]
    fn the_shop_with_a_line_moved(from in 0..130_usize, to in 0..130_usize) {
        let mut lines: Vec<_> = SHOP.lines().collect();
        let line = lines.remove(from.min(lines.len() - 1));
        lines.insert(to.min(lines.len()), line);
        survives(&lines.join("\n"));
    }
}

/// On a small stack, so that recursion without a limit would be seen.
#[test]
fn deep_texts_do_not_use_up_the_stack() {
    let texts = [
        format!("[{}]", vec!["a"; 200_000].join(".")),
        format!("{} = 1", vec!["a"; 200_000].join(" . ")),
        format!("x = {}", "[".repeat(200_000)),
        format!("x = {}1{}", "{ a.b.c.d.e.f.g.h = ".repeat(70), " }".repeat(70)),
        format!("x = {}1{}", format!("{{ {} = ", ["a"; 79].join(".")).repeat(79), " }".repeat(79)),
        format!("x = {}1{}", format!("{{ {} = ", ["a"; 17].join(".")).repeat(79), " }".repeat(79)),
        format!(
            "[workload]\nname='w'\n[component.a]\nrun=['x']\n[[flow.f.step]]\npost='/'\njson = {}1{}",
            "{ a.b.c.d.e.f.g.h = ".repeat(70),
            " }".repeat(70)
        ),
    ];
    let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
    thread.spawn(move || texts.iter().for_each(|text| survives(text))).unwrap().join().unwrap();
}
