//! Whether the store works, removal of what is past its time, and transfer to another store.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{Embedded, requests, schema, transfer};
use crate::clock::Timestamp;
use crate::store::{Exported, Result, Store};

#[async_trait]
impl Store for Embedded {
    /// Asks the writer, since a store that cannot write is of no use: now and then for a page, as a full disk shows at
    /// nothing less.
    async fn ping(&self) -> Result<()> {
        let now = Instant::now();
        let (file, is_due) = (self.file.clone(), self.proof.is_due(now));
        let pinged = self
            .write(move |c| {
                file.map_or(Ok(()), |file| file.require_in_place())?;
                if is_due { schema::write_again(c) } else { Ok(c.query_row("SELECT 1", [], |_| Ok(()))?) }
            })
            .await;
        if is_due || pinged.is_err() {
            self.proof.note(pinged.is_ok().then_some(now));
        }
        pinged
    }

    async fn settle(&self) -> Result<()> {
        match &self.file {
            Some(_) => self.writer.checkpoint().await,
            None => Ok(()),
        }
    }

    async fn expire(&self, now: Timestamp, chat_retention: Duration) -> Result<()> {
        while self.write(move |c| requests::expire(c, now, chat_retention)).await? {}
        Ok(())
    }

    async fn export(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>> {
        let (collection, after) = (collection.to_owned(), after.map(str::to_owned));
        self.read(move |c| transfer::export(c, &collection, after.as_deref(), limit)).await
    }

    async fn import(&self, collection: &str, documents: &[Exported]) -> Result<()> {
        let (collection, documents) = (collection.to_owned(), documents.to_vec());
        self.write(move |c| transfer::import(c, &collection, &documents)).await
    }
}
