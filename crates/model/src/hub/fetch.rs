//! HTTP against a hub: what a repository has, what a file is, and its bytes, resumed where they broke off.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::spec::is_name;
use super::{HubConfig, HubProgress};

/// Why a request failed, and whether trying again can help.
#[derive(Debug)]
pub(super) struct Failure {
    pub reason: String,
    pub mend: String,
    pub transient: bool,
    /// The hub could not be reached at all.
    pub unreachable: bool,
}

impl Failure {
    pub fn lasting(reason: impl Into<String>, mend: impl Into<String>) -> Self {
        Failure { reason: reason.into(), mend: mend.into(), transient: false, unreachable: false }
    }

    fn strange(reason: impl Into<String>) -> Self {
        Self::lasting(reason, "check HF_ENDPOINT; it does not answer as a model hub does")
    }
}

/// What a revision of a repository is and has.
#[derive(Debug)]
pub(super) struct RepoInfo {
    pub commit: String,
    pub files: Vec<String>,
}

/// What a file is.
#[derive(Debug)]
pub(super) struct FileInfo {
    /// Names the contents; the name of the file in the cache.
    pub etag: String,
    pub size: u64,
}

/// A client of one hub.
pub(super) struct Client<'a> {
    config: &'a HubConfig,
    /// Follows redirections.
    agent: Agent,
    /// Does not: the first answer carries the headers that say what a file is.
    still: Agent,
}

/// Size limit of answers that are kept in memory.
const ANSWER_LIMIT: u64 = 64 << 20;

impl<'a> Client<'a> {
    pub fn new(config: &'a HubConfig) -> Self {
        let build = |redirects: u32| -> Agent {
            let mut builder = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(redirects)
                .max_redirects_will_error(false)
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .timeout_resolve(Some(Duration::from_secs(15)))
                .timeout_connect(Some(Duration::from_secs(15)))
                .timeout_recv_response(Some(Duration::from_secs(60)))
                .timeout_per_read(Some(Duration::from_secs(60)))
                .user_agent(concat!("cachalot/", env!("CARGO_PKG_VERSION")));
            let host = config.endpoint.split("://").nth(1).unwrap_or_default();
            if host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]") {
                builder = builder.proxy(None);
            }
            builder.build().into()
        };
        Client { config, agent: build(10), still: build(0) }
    }

    /// Commit and file names of a revision.
    pub fn repo(&self, repo: &str, revision: &str) -> Result<RepoInfo, Failure> {
        let revision = revision.replace('/', "%2F");
        let url = format!("{}/api/models/{repo}/revision/{revision}", self.config.endpoint);
        let mut response = self.checked(self.request(&self.agent, "GET", &url, None)?)?;
        let text = response.body_mut().with_config().limit(ANSWER_LIMIT).read_to_string().map_err(|e| broken(&e))?;
        let strange = || Failure::strange("the description of the repository has no \"sha\" and \"siblings\"");
        let json: Value = serde_json::from_str(&text).map_err(|_| strange())?;
        let commit = json.get("sha").and_then(Value::as_str).filter(|s| is_name(s)).ok_or_else(strange)?.to_owned();
        let list = json.get("siblings").and_then(Value::as_array).ok_or_else(strange)?;
        let name = |item: &Value| Some(item.get("rfilename")?.as_str()?.to_owned());
        Ok(RepoInfo { commit, files: list.iter().filter_map(name).collect() })
    }

    fn url(&self, repo: &str, commit: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{file}", self.config.endpoint)
    }

    /// What a file of a commit is.
    pub fn file(&self, repo: &str, commit: &str, file: &str) -> Result<FileInfo, Failure> {
        let mut url = self.url(repo, commit, file);
        // Redirections within the hub (a renamed repository) are followed, the one to the storage is not.
        for _ in 0..5 {
            let response = self.request(&self.still, "HEAD", &url, None)?;
            let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
            if let Some(path) =
                header("location").filter(|to| response.status().is_redirection() && to.starts_with('/'))
            {
                url = format!("{}{path}", self.origin());
                continue;
            }
            if !response.status().is_redirection() && !response.status().is_success() {
                return Err(self.refusal(&response));
            }
            let etag = header("x-linked-etag").or_else(|| header("etag"));
            let etag = etag.map(|e| e.trim_start_matches("W/").trim_matches('"').to_owned());
            let size = header("x-linked-size").or_else(|| header("content-length")).and_then(|s| s.parse().ok());
            return match (etag.filter(|e| is_name(e)), size) {
                (Some(etag), Some(size)) => Ok(FileInfo { etag, size }),
                _ => Err(Failure::strange(format!("the headers of {file} lack its ETag or size"))),
            };
        }
        Err(Failure::strange("too many redirections"))
    }

    fn origin(&self) -> &str {
        let endpoint = &self.config.endpoint;
        let host = endpoint.find("://").map_or(0, |at| at + 3);
        endpoint[host..].find('/').map_or(endpoint, |at| &endpoint[..host + at])
    }

    /// Brings `part` to the full size of the file, beginning with what it already has. On failure `part` keeps what came.
    pub fn download(
        &self,
        repo: &str,
        commit: &str,
        file: &str,
        info: &FileInfo,
        part: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        let disk = |e: std::io::Error| {
            Failure::lasting(format!("cannot write {}: {e}", part.display()), "check the disk and HF_HOME")
        };
        let mut out = OpenOptions::new().create(true).append(true).open(part).map_err(disk)?;
        let mut have = out.metadata().map_err(disk)?.len();
        if have > info.size {
            out.set_len(0).map_err(disk)?;
            have = 0;
        }
        progress(have);
        if have == info.size {
            return Ok(());
        }
        let range = (have > 0).then(|| format!("bytes={have}-"));
        let url = self.url(repo, commit, file);
        let response = self.request(&self.agent, "GET", &url, range.as_deref())?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => {}
            // The server does not resume: from the beginning, then.
            StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if have > 0 => {
                out.set_len(0).map_err(disk)?;
                have = 0;
                progress(0);
                if response.status() != StatusCode::OK {
                    let reason = "the server refused to continue the download where it broke off".into();
                    return Err(Failure { reason, mend: String::new(), transient: true, unreachable: false });
                }
            }
            _ => drop(self.checked_status(&response)?),
        }
        copy(response.into_body(), &mut out, have, info.size, progress, disk)
    }

    fn request(&self, agent: &Agent, method: &str, url: &str, range: Option<&str>) -> Result<Response<Body>, Failure> {
        let mut request = if method == "HEAD" { agent.head(url) } else { agent.get(url) };
        // Sizes and ranges are those of the bytes as they are.
        request = request.header("Accept-Encoding", "identity");
        if let Some(token) = &self.config.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        request.call().map_err(|e| broken(&e))
    }

    fn checked(&self, response: Response<Body>) -> Result<Response<Body>, Failure> {
        self.checked_status(&response)?;
        Ok(response)
    }

    fn checked_status(&self, response: &Response<Body>) -> Result<(), Failure> {
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(response)) }
    }

    /// Says what a status means here. The hub answers 401 for repositories that do not exist as well.
    fn refusal(&self, response: &Response<Body>) -> Failure {
        let status = response.status();
        let code = response.headers().get("x-error-code").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let token = match self.config.token {
            Some(_) => "the token in HF_TOKEN has no access to it",
            None => "no token was sent",
        };
        match (status.as_u16(), code) {
            (_, "GatedRepo") | (403, _) => Failure::lasting(
                format!("its authors ask users to agree to terms first ({status}; {token})"),
                "agree on the model's page and set HF_TOKEN to a token of that account",
            ),
            (_, "RevisionNotFound") => {
                Failure::lasting(format!("there is no such revision ({status})"), "check what follows the @")
            }
            (_, "EntryNotFound") => Failure::lasting(format!("there is no such file ({status})"), "check its name"),
            (401, _) => Failure::lasting(
                format!("there is no such model, or it is private or gated ({status}; {token})"),
                "check the name; for a private or gated model set HF_TOKEN",
            ),
            (404, _) => Failure::lasting(format!("there is no such model or file ({status})"), "check the name"),
            (status, _) => Failure {
                reason: format!("the hub answered {}", response.status()),
                mend: "try again later".into(),
                transient: status >= 500 || status == 429 || status == 408,
                unreachable: false,
            },
        }
    }
}

/// Whether a partial answer begins at this byte.
fn starts_at(response: &Response<Body>, byte: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let first = range.strip_prefix("bytes ").and_then(|r| r.split('-').next()).and_then(|n| n.parse::<u64>().ok());
    first == Some(byte)
}

fn copy(
    body: Body,
    out: &mut File,
    mut have: u64,
    size: u64,
    progress: &mut dyn FnMut(u64),
    disk: impl Fn(std::io::Error) -> Failure,
) -> Result<(), Failure> {
    let mut reader = body.into_reader();
    let mut buffer = vec![0; 256 << 10];
    let broke_off = |have: u64, why: &str| Failure {
        reason: format!("the connection broke off after {have} of {size} bytes{why}"),
        mend: "run the same command again; it continues there".into(),
        transient: true,
        unreachable: false,
    };
    loop {
        let n = reader.read(&mut buffer).map_err(|e| broke_off(have, &format!(" ({e})")))?;
        if n == 0 {
            break;
        }
        have += n as u64;
        if have > size {
            out.set_len(0).map_err(&disk)?;
            return Err(Failure::strange(format!("more bytes came than the {size} announced")));
        }
        out.write_all(&buffer[..n]).map_err(&disk)?;
        progress(have);
    }
    if have < size {
        return Err(broke_off(have, ""));
    }
    out.sync_all().map_err(disk)
}

/// A request without an answer.
fn broken(e: &ureq::Error) -> Failure {
    let unreachable = matches!(
        e,
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Timeout(_) | ureq::Error::Io(_)
    );
    Failure {
        reason: format!("no answer ({e})"),
        mend: if unreachable {
            "check the network and HF_ENDPOINT, or give a local path".into()
        } else {
            "check HF_ENDPOINT".into()
        },
        transient: unreachable && !matches!(e, ureq::Error::HostNotFound),
        unreachable,
    }
}

/// Progress of one file, as the caller's callback wants it.
pub(super) fn report<'p>(
    progress: Option<&'p dyn Fn(&HubProgress)>,
    file: &'p str,
    index: usize,
    files: usize,
    total: u64,
) -> impl FnMut(u64) + 'p {
    move |done| {
        if let Some(progress) = progress {
            progress(&HubProgress { file: file.to_owned(), index, files, done, total });
        }
    }
}
