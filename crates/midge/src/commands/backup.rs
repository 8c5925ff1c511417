//! `midge backup`: everything a platform could not make again, in one file.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::args::Platform;
use crate::client::Client;
use crate::failure::{Failure, While as _};
use crate::screen::{self, Progress};

/// Save everything of the platform in one file
///
/// Records, keys and uploads as they are at one moment; the platform goes on meanwhile. The file holds the platform's
/// keys: it is made for its owner alone, and should be kept like a password. An existing file is not replaced.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge backup midge-backup.tar
  midge backup \"backup-$(date +%F).tar\"")]
pub struct Options {
    /// The file to make
    file: PathBuf,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let file = std::path::absolute(&options.file)
        .or_fail(|| format!("finding `{}`", options.file.display()))?;
    let shown = options.file.display();
    if file.exists() {
        return Err(Failure::failed(format!("`{shown}` exists already"))
            .hint("name another file; backups are not replaced"));
    }
    let writing = || format!("writing the backup `{shown}`");
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::Builder::new()
        .prefix(".midge-backup-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .or_fail(writing)?;

    let mut pieces = client.download("/v1/backup").await?;
    let (mut bytes, mut progress) = (0, Progress::new());
    while let Some(piece) = pieces.next().await? {
        new.write_all(&piece).or_fail(writing)?;
        bytes += piece.len() as u64;
        progress.show(|| format!("saved {}", screen::size(bytes)));
    }
    drop(progress);
    new.as_file().sync_all().or_fail(writing)?;
    new.persist_noclobber(&file).or_fail(writing)?;
    sync(folder).or_fail(writing)?;
    screen::line(format_args!("saved {shown} ({})", screen::size(bytes)))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
