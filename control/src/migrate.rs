//! `onair migrate`: everything that is kept, from one store into another, either way.
//!
//! Documents that are there already are replaced, so a migration may be repeated. One that was interrupted goes on
//! where it was, by its [`Bookmark`]. Idempotency keys, limits and notes of webhooks are left behind: they are of use
//! for a day at most. No server may use either store meanwhile, since what it wrote might be missed or overwritten: one
//! that is at work is found by its lock or by what it says of itself, and the migration refuses.

mod bookmark;
mod place;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::config::product;
use crate::store::embedded::FILE;
use crate::store::{COLLECTIONS, Exported, Store, StoreError};

pub use bookmark::{Bookmark, BookmarkError};
pub use place::{Opened, Place};

/// Name of the file that knows how far a migration is.
const BOOKMARK: &str = "onair-migrate.json";
/// Documents read and written at a time.
const BATCH: usize = 500;
/// The same for `chat_totals`, since each names all who ever wrote in a chat.
const BATCH_OF_TOTALS: usize = 16;
/// Documents after which the command tells how far it is.
const TOLD_EVERY: u64 = 10_000;

/// Why a migration stopped. Everything up to there is in the target; running it again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot read {collection}")]
    Read { collection: &'static str, source: StoreError },
    #[error("cannot write {collection}")]
    Write { collection: &'static str, source: StoreError },
    #[error(transparent)]
    Bookmark(#[from] BookmarkError),
}

/// Copies all collections, as far as `bookmark` says that they are not copied yet. How many documents there were of
/// each, those of earlier runs included, is what `progress` hears after each batch.
///
/// # Errors
/// [`MigrateError`]
pub async fn run(
    from: &dyn Store,
    to: &dyn Store,
    bookmark: &mut Bookmark,
    mut progress: impl FnMut(&'static str, u64),
) -> Result<(), MigrateError> {
    for collection in COLLECTIONS {
        progress(collection, bookmark.copied(collection));
        while let Some(after) = bookmark.open_from(collection) {
            let documents = read(from, collection, after.as_deref()).await?;
            if let Some(last) = documents.last() {
                let write = to.import(collection, &documents).await;
                write.map_err(|source| MigrateError::Write { collection, source })?;
                bookmark.advance(collection, last.key.clone(), documents.len() as u64)?;
                progress(collection, bookmark.copied(collection));
            } else {
                bookmark.finish(collection)?;
            }
        }
    }
    Ok(())
}

async fn read(from: &dyn Store, collection: &'static str, after: Option<&str>) -> Result<Vec<Exported>, MigrateError> {
    let batch = if collection == "chat_totals" { BATCH_OF_TOTALS } else { BATCH };
    let read = from.export(collection, after, batch).await;
    read.map_err(|source| MigrateError::Read { collection, source })
}

/// The subcommand: from the embedded store to MongoDB as configured, unless told otherwise.
///
/// # Errors
/// What went wrong and what to do, for people.
pub async fn command(store: &product::Store, from: Option<Place>, to: Option<Place>) -> anyhow::Result<()> {
    let from = from.unwrap_or_else(|| Place::configured_file(store));
    let Some(to) = to.or_else(|| Place::configured_mongo(store)) else {
        bail!("where to? Give --to a file or a mongodb:// URI, or set store.mongodb_uri");
    };
    if from.is(&to) {
        bail!("--from and --to are the same store");
    }
    if let Place::File(file) = &to
        && file.file_name().is_none_or(|name| name != FILE)
    {
        bail!("no server would find {}: give --to a directory, as in store.path", file.display());
    }
    if let Place::File(file) = &from
        && !file.exists()
    {
        bail!("there is no database at {}: give its file or its directory by --from", file.display());
    }
    let source = from.open_source(store).await.context("--from")?;
    let target = to.open_target(store).await.context("--to")?;
    let file = bookmark_file(&from, &to);
    let mut bookmark = Bookmark::open(&file, &format!("{} {}", from.digest(), to.digest()))?;
    if !bookmark.is_new() {
        println!("Going on where the last run stopped. To begin anew, remove {}.", file.display());
    }
    run(source.store.as_ref(), target.store.as_ref(), &mut bookmark, tell())
        .await
        .with_context(|| format!("not all is copied; run it again to go on, {} knows where", file.display()))?;
    for opened in [&source, &target] {
        let begin_anew = || format!("what it wrote may be missing; remove {} and run this again", file.display());
        opened.check_nobody_works().await.with_context(begin_anew)?;
    }
    for collection in COLLECTIONS {
        println!("{:>12} {collection}", bookmark.copied(collection));
    }
    bookmark.remove()?;
    println!("Everything is copied.");
    Ok(())
}

/// The file of the bookmark: beside the file of the source, else of the target, if one of them is a file.
fn bookmark_file(from: &Place, to: &Place) -> PathBuf {
    let beside = |file: &Path| file.with_file_name(BOOKMARK);
    match (from, to) {
        (Place::File(file), _) | (_, Place::File(file)) => beside(file),
        (Place::Mongo(_), Place::Mongo(_)) => PathBuf::from(BOOKMARK),
    }
}

fn tell() -> impl FnMut(&'static str, u64) {
    let mut told = ("", 0);
    move |collection, copied| {
        if told.0 != collection {
            told = (collection, copied);
        }
        if copied >= told.1 + TOLD_EVERY {
            told.1 = copied;
            println!("{copied:>12} {collection} so far");
        }
    }
}
