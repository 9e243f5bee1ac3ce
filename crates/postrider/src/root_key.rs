//! `postrider root-key`: for whoever lost the root key.

use postrider_engine::{Clock, SystemClock};

use crate::cli::StoreArgs;

/// Makes one more root key in the store of a stopped server, and prints it.
///
/// # Errors
/// When there is no database, or a server uses it.
pub(crate) async fn run(args: &StoreArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let store = config.store.open_existing().await?;
    let key = postrider_service::new_root_key(&store, SystemClock.now()).await?;
    #[expect(clippy::print_stdout, reason = "the key is what the user came for")]
    {
        println!("{}", key.expose());
    }
    #[expect(clippy::print_stderr, reason = "for the person at the terminal")]
    {
        eprintln!(
            "A new root key; it is shown only now. Delete those that are lost: postrider key list"
        );
    }
    Ok(())
}
