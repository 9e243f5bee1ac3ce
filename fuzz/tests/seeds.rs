//! Every seed, and so everything that was ever found, is tried by each run of the tests.

#[test]
fn no_target_fails_on_its_seeds() {
    for (name, target) in postrider_fuzz::TARGETS {
        let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("seeds")
            .join(name);
        let mut tried = 0;
        for seed in std::fs::read_dir(&seeds).expect("each target has seeds") {
            let seed = seed.expect("a seed can be read").path();
            target(&std::fs::read(seed).expect("a seed can be read"));
            tried += 1;
        }
        assert!(tried > 0, "{name} has no seed");
    }
}

#[test]
#[should_panic(expected = "the planted mistake was found")]
fn the_control_fails() {
    postrider_fuzz::control(b"rider on the way");
}
