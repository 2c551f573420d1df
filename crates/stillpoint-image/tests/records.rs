//! `src/records.rs` is what `proto/stillpoint.proto` says. After a change of the schema:
//!
//! ```text
//! UPDATE_RECORDS=1 cargo test -p stillpoint-image --test records
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

const HEADER: &str = "\
// @generated from proto/stillpoint.proto. Do not edit; edit the schema, then run
//
//     UPDATE_RECORDS=1 cargo test -p stillpoint-image --test records

";

#[test]
fn generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let generated = HEADER.to_owned() + &generate(root);
    let path = root.join("src/records.rs");
    if std::env::var_os("UPDATE_RECORDS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    // Not assert_eq: it would print both files.
    assert!(
        committed == generated,
        "src/records.rs differs from proto/stillpoint.proto; run\n\
         UPDATE_RECORDS=1 cargo test -p stillpoint-image --test records"
    );
}

fn generate(root: &Path) -> String {
    let mut compiler = protox::Compiler::new([root.join("proto")]).unwrap();
    let descriptors =
        compiler.include_source_info(true).open_file("stillpoint.proto").unwrap().file_descriptor_set();
    let out = tempdir();
    prost_build::Config::new().out_dir(&out).format(true).compile_fds(descriptors).unwrap();
    let text = std::fs::read_to_string(out.join("stillpoint.rs")).unwrap();
    std::fs::remove_dir_all(&out).unwrap();
    text
}

fn tempdir() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("stillpoint-records-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}
