//! Finding the database and coming to terms with it: time-outs, durability, indexes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mongodb::bson::doc;
use mongodb::options::{Acknowledgment, ClientOptions, ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::{Client, Database};
use tracing::{info, warn};

use super::fault::{Fault, run, within};
use super::ownership::{self, TakeOver};
use super::recounts::Recounts;
use super::{Mongo, earlier, indexes};
use crate::store::{Result, StoreError};

/// The database if the URI names none.
const DATABASE: &str = "onair";

/// Longest time to find a server that takes an operation, and to open a connection to it.
const SELECTION_MAX: Duration = Duration::from_secs(2);

/// Connections to a server. The driver's own limit of 10 makes a burst of webhooks wait for each other.
const POOL_MAX: u32 = 32;

/// Between two tries to reach a database that is away at the start.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// The server's codes for wrong credentials, or none.
const REFUSED: [i32; 3] = [13, 18, 8000];

async fn reach(uri: &str, database: Option<&str>, time: Duration) -> Result<Mongo> {
    require_clock(SystemTime::now())?;
    let options = options(uri).await?;
    let name = database.or(options.default_database.as_deref()).unwrap_or(DATABASE).to_owned();
    let hosts = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let client = Client::with_options(options).map_err(unusable)?;
    let database = client.database(&name);
    wait_for(&database, &hosts, time).await?;
    info!(hosts, database = name, "connected to MongoDB");
    let (unique, recounts) = (indexes::Unique::default(), Recounts::default());
    Ok(Mongo { database, unique, recounts, has_undated: false })
}

/// The driver makes an id for itself, and panics by a clock that an id cannot hold.
fn require_clock(now: SystemTime) -> Result<()> {
    match now.duration_since(UNIX_EPOCH).map(|since| u32::try_from(since.as_secs())) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => {
            Err(StoreError::Failed("the clock of this machine is before 1970 or after 2106: set it".into()))
        }
    }
}

/// What the URI says, and what is better than the driver's defaults where it says nothing.
async fn options(uri: &str) -> Result<ClientOptions> {
    // A URI of mongodb+srv asks the name server.
    let parsed = within(Duration::from_secs(10), ClientOptions::parse(uri).into_future()).await;
    let mut options = parsed.map_err(|fault| match fault {
        Fault::Driver(error) => unusable(*error),
        Fault::Late(_) => StoreError::Unavailable("the name server does not say where MongoDB is".into()),
    })?;
    options.app_name.get_or_insert_with(|| "onair".into());
    options.server_selection_timeout.get_or_insert(SELECTION_MAX);
    options.connect_timeout.get_or_insert(SELECTION_MAX);
    options.max_pool_size.get_or_insert(POOL_MAX);
    // What was acknowledged is not lost, neither by a crash nor by an election.
    let concern = options.write_concern.get_or_insert_with(WriteConcern::default);
    concern.w.get_or_insert(Acknowledgment::Majority);
    concern.journal.get_or_insert(true);
    // A count has to see what was written just before.
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    Ok(options)
}

/// Driver messages about a URI do not repeat it, and so show no password.
fn unusable(error: mongodb::error::Error) -> StoreError {
    StoreError::Failed(format!(
        "the URI of MongoDB cannot be used: {}. It looks like mongodb://user:password@host:27017/onair",
        error.kind
    ))
}

async fn wait_for(database: &Database, hosts: &str, time: Duration) -> Result<()> {
    let begin = Instant::now();
    loop {
        let Err(fault) = ping(database).await else { return Ok(()) };
        if is_refusal(&fault) {
            let error = StoreError::from(fault);
            return Err(StoreError::Failed(format!(
                "MongoDB at {hosts} refuses us: {error}. Correct the user, the password or `authSource` in its URI"
            )));
        }
        if begin.elapsed() + TRY_EVERY > time {
            let why = fault.brief();
            return Err(StoreError::Unavailable(format!(
                "MongoDB at {hosts} did not answer within {time:?} ({why}). Start it, correct its URI, or leave the \
                 URI out to use the embedded store"
            )));
        }
        warn!(hosts, "waiting for MongoDB");
        tokio::time::sleep(TRY_EVERY).await;
    }
}

async fn ping(database: &Database) -> std::result::Result<(), Fault> {
    run(database.run_command(doc! { "ping": 1 })).await.map(drop)
}

fn is_refusal(fault: &Fault) -> bool {
    match fault {
        Fault::Driver(error) => {
            matches!(error.kind.as_ref(), mongodb::error::ErrorKind::Authentication { .. })
                || fault.code().is_some_and(|code| REFUSED.contains(&code))
        }
        Fault::Late(_) => false,
    }
}

impl Mongo {
    /// Connects, takes over what earlier versions kept, and makes the indexes that are missing.
    ///
    /// The database is `database`, else the one of the URI, else `onair`. A server that is away is awaited for `time`.
    /// Afterwards it may come and go.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no server answered in time, and [`StoreError::Failed`] if the URI or the
    /// credentials are wrong, a collection with a name of ours is somebody else's, or an index cannot be made. The text
    /// says what to do, and holds no password.
    pub async fn connect(uri: &str, database: Option<&str>, time: Duration) -> Result<Mongo> {
        let mut mongo = Self::reach(uri, database, time).await?;
        mongo.prepare().await?;
        Ok(mongo)
    }

    /// As [`Mongo::connect`], but writes nothing: to read what is there, or to look before [`Mongo::prepare`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no server answered in time, and [`StoreError::Failed`] if the URI or the
    /// credentials are wrong.
    pub async fn reach(uri: &str, database: Option<&str>, time: Duration) -> Result<Mongo> {
        reach(uri, database, time).await
    }

    /// # Errors
    /// [`StoreError::Failed`] if no server of this version has kept anything here.
    pub async fn require_data(&self) -> Result<()> {
        ownership::require_settled(&self.database).await
    }

    /// Takes over what earlier versions kept, and makes the indexes that are missing.
    ///
    /// # Errors
    /// As [`Mongo::connect`].
    pub async fn prepare(&mut self) -> Result<()> {
        if ownership::claim(&self.database).await? == TakeOver::EarlierVersions {
            earlier::take_over(&self.database).await?;
            ownership::note_taken_over(&self.database).await?;
        }
        self.end_all_but_the_newest().await?;
        self.unique = indexes::ensure(&self.database).await?;
        self.note_undated().await
    }

    pub(super) async fn ping_once(&self) -> Result<()> {
        Ok(ping(&self.database).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_are_durable_unless_the_uri_says_otherwise() {
        let concern = |uri| async move { options(uri).await.expect("it is a URI").write_concern.expect("it is set") };

        let ours = concern("mongodb://localhost").await;
        assert_eq!((ours.w, ours.journal), (Some(Acknowledgment::Majority), Some(true)));
        let theirs = concern("mongodb://localhost/?w=1&journal=false").await;
        assert_eq!((theirs.w, theirs.journal), (Some(Acknowledgment::Nodes(1)), Some(false)));
    }

    #[test]
    fn a_clock_that_no_id_can_hold_is_no_panic_of_the_driver() {
        let years = |count: u64| Duration::from_secs(count * 365 * 24 * 3600);

        assert!(require_clock(UNIX_EPOCH).is_ok() && require_clock(UNIX_EPOCH + years(136)).is_ok());
        assert!(require_clock(UNIX_EPOCH - years(1)).is_err() && require_clock(UNIX_EPOCH + years(137)).is_err());
    }

    #[tokio::test]
    async fn an_unusable_uri_is_refused_without_repeating_its_password() {
        for uri in ["", "http://user:secret@host", "mongodb://user:secret@", "mongodb://user:secret@host:port/db"] {
            let Err(StoreError::Failed(text)) = options(uri).await else { panic!("{uri} was taken") };
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
