//! Runs a service as its pod would run it: with the settings of an overlay in `k8s/`, no other environment,
//! another user, and a read-only root that holds only what the manifests mount. The addresses of servers and peers
//! are those of the test.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Mutex,
    time::Duration,
};

use rustix::process::Signal;
use serde::Deserialize;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{Service, Stack, binaries, eventually, port, process::Process, token, workspace_root};

/// Long enough for a debug build on a busy machine.
const READY: Duration = Duration::from_secs(60);
const DRAINED: Duration = Duration::from_secs(60);

/// Settings of one server of an overlay.
#[derive(Clone, Debug, Deserialize)]
pub struct PodSpec {
    /// The service.
    pub name: String,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    user: u32,
    group: u32,
    mounts: Vec<Mount>,
}

#[derive(Clone, Debug, Deserialize)]
struct Mount {
    path: PathBuf,
    read_only: bool,
    /// Whether the mount is an empty folder of the pod. Otherwise it holds what the operator provides under the
    /// volume's name.
    empty: bool,
    volume: String,
}

impl PodSpec {
    /// Renders an overlay and returns its servers.
    ///
    /// # Panics
    /// When the manifests cannot be rendered.
    pub fn load_overlay(overlay: &str) -> Vec<PodSpec> {
        let rendered = Command::new(workspace_root().join("scripts/k8s-validate"))
            .args(["--processes", overlay])
            .output()
            .expect("Python is there");
        let errors = String::from_utf8_lossy(&rendered.stderr);
        assert!(
            rendered.status.success(),
            "{overlay} cannot be rendered: {errors}"
        );
        serde_json::from_slice(&rendered.stdout).expect("it prints JSON")
    }
}

/// A running pod. Dropping it kills it.
#[derive(Debug)]
pub struct Pod {
    name: String,
    grpc: u16,
    probe: u16,
    process: Mutex<Process>,
}

impl Pod {
    /// Starts all servers of an overlay against the PostgreSQL and NATS of a stack, each with the addresses of the
    /// others.
    pub async fn start_all(overlay: &str, stack: &Stack) -> Vec<Pod> {
        if !isolated() {
            eprintln!(
                "NOT ROOT: {overlay} runs with its own settings and no other environment, but as this user and without \
                 a read-only root"
            );
        }
        let specs = PodSpec::load_overlay(overlay);
        let ports: BTreeMap<String, u16> = specs
            .iter()
            .map(|spec| (spec.name.clone(), port::free()))
            .collect();
        let mut pods = Vec::new();
        for spec in specs {
            pods.push(Pod::start(&spec, stack, &ports).await);
        }
        pods
    }

    async fn start(spec: &PodSpec, stack: &Stack, ports: &BTreeMap<String, u16>) -> Pod {
        let (grpc, probe) = (ports[&spec.name], port::free());
        let program = binaries::program(&spec.name).await;
        let folder = stack.folder().join(format!("pod-{}", spec.name));
        let volumes = prepare_volumes(spec, stack, &folder);
        let mut environment = spec.environment.clone();
        environment.extend(addresses(spec, stack, ports, probe));
        let mut command = if isolated() {
            isolate(spec, &program, &folder, &volumes)
        } else {
            // Without a mount namespace the settings name the volumes by their real paths.
            for value in environment.values_mut() {
                for (mount, source) in &volumes {
                    if let Ok(below) = Path::new(&*value).strip_prefix(&mount.path) {
                        *value = source.join(below).to_string_lossy().into_owned();
                    }
                }
            }
            Command::new(&program)
        };
        command.args(&spec.arguments).env_clear().envs(&environment);
        let log = stack.folder().join(format!("pod-{}.log", spec.name));
        Pod {
            name: spec.name.clone(),
            grpc,
            probe,
            process: Mutex::new(Process::spawn("pod", &mut command, &log, "KILL")),
        }
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection to its gRPC port.
    pub fn channel(&self) -> Channel {
        endpoint(self.grpc)
    }

    /// Waits until its probe port reports readiness.
    pub async fn ready(&self) {
        eventually(READY, || async {
            if self
                .process
                .lock()
                .expect("no test panics in it")
                .ended()
                .is_some()
            {
                panic!("{} ended before it was ready\n{}", self.name, self.log());
            }
            let mut probe = HealthClient::new(endpoint(self.probe));
            let request = HealthCheckRequest {
                service: "readiness".to_owned(),
            };
            match probe.check(request).await {
                Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
                answer => Err(format!("{}: {answer:?}\n{}", self.name, self.log())),
            }
        })
        .await;
    }

    /// Sends SIGTERM, and waits until it has drained.
    pub async fn stop(&self) -> ExitStatus {
        self.process
            .lock()
            .expect("no test panics in it")
            .signal(Signal::TERM);
        eventually(DRAINED, || async {
            self.process.lock().expect("no test panics in it").ended()
        })
        .await
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.lock().expect("no test panics in it").tail()
    }
}

fn endpoint(port: u16) -> Channel {
    Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .expect("an address is a URI")
        .connect_lazy()
}

/// Whether this user may create a mount namespace and a root for a process.
fn isolated() -> bool {
    rustix::process::geteuid().is_root()
}

/// Creates what the operator provides and the pod's empty folders. Returns each mount with the path of its
/// content.
fn prepare_volumes(spec: &PodSpec, stack: &Stack, folder: &Path) -> Vec<(Mount, PathBuf)> {
    let mut volumes = Vec::new();
    for mount in &spec.mounts {
        let source = folder.join("volumes").join(&mount.volume);
        fs::create_dir_all(&source).expect("the folder is the test's own");
        if mount.empty {
            if isolated() {
                chown(&source, None, Some(spec.group)).expect("this is root");
            }
            fs::set_permissions(&source, Permissions::from_mode(0o2770))
                .expect("the folder is the test's own");
        } else {
            let (file, content) = match mount.volume.as_str() {
                "jwks" => ("jwks.json", stack.issuer().jwks_file()),
                "signing" => ("key.pem", stack.issuer().signing_key_file(service_of(spec))),
                other => panic!("the test does not know what the operator puts into {other}"),
            };
            let file = source.join(file);
            fs::copy(content, &file).expect("the folder is the test's own");
            if isolated() {
                chown(&file, None, Some(spec.group)).expect("this is root");
            }
            // As `defaultMode` and `fsGroup` make it.
            fs::set_permissions(&file, Permissions::from_mode(0o440)).expect("the folder is the test's own");
            fs::set_permissions(&source, Permissions::from_mode(0o755))
                .expect("the folder is the test's own");
        }
        volumes.push((mount.clone(), source));
    }
    volumes
}

fn service_of(spec: &PodSpec) -> Service {
    Service::ALL
        .into_iter()
        .find(|service| service.name() == spec.name)
        .expect("the overlays run our services")
}

/// Settings that name other processes, and the issuer of the test's tokens.
fn addresses(
    spec: &PodSpec,
    stack: &Stack,
    ports: &BTreeMap<String, u16>,
    probe: u16,
) -> BTreeMap<String, String> {
    let service = service_of(spec);
    let prefix = spec.name.to_uppercase();
    let mut settings = vec![
        (
            "GRPC__LISTEN".to_owned(),
            format!("0.0.0.0:{}", ports[&spec.name]),
        ),
        ("PROBE__LISTEN".to_owned(), format!("0.0.0.0:{probe}")),
        ("DATABASE__URL".to_owned(), stack.database(service).app_url()),
        ("EVENTS__SERVERS".to_owned(), stack.nats().url().to_owned()),
        (
            "EVENTS__MONITOR_URL".to_owned(),
            stack.nats().monitoring_url().to_owned(),
        ),
        // The test has one broker.
        ("EVENTS__REPLICAS".to_owned(), "1".to_owned()),
        ("AUTH__ISSUER".to_owned(), token::ISSUER.to_owned()),
        ("AUTH__AUDIENCE".to_owned(), token::AUDIENCE.to_owned()),
        ("AUTH__SIGNING_KEY_ID".to_owned(), token::KEY_ID.to_owned()),
    ];
    for (peer, port) in ports {
        let target = format!("{}__TARGET", peer.to_uppercase());
        if spec.environment.contains_key(&format!("{prefix}__{target}")) {
            settings.push((target, format!("static:http://127.0.0.1:{port}")));
        }
    }
    settings
        .into_iter()
        .map(|(name, value)| (format!("{prefix}__{name}"), value))
        .collect()
}

/// Runs in a separate mount namespace. Besides the program, the image has the system's libraries. `$1` is the
/// root, `$2` the program, `$3` user and group; then each mount as three arguments up to `--`, then the command.
const ISOLATE: &str = r#"set -e
root=$1; program=$2; user=$3; shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
for folder in usr lib lib64; do
    if [ -d "$root/$folder" ] && [ ! -L "$root/$folder" ]; then
        mount --bind "/$folder" "$root/$folder"
        mount -o remount,bind,ro "$root/$folder"
    fi
done
mount --bind "$program" "$root/service"
while [ "$1" != -- ]; do
    mount --bind "$2" "$root$1"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$1"; fi
    shift 3
done
shift
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" --groups="${user#*:}" "$root" /service "$@"
"#;

fn isolate(spec: &PodSpec, program: &Path, folder: &Path, volumes: &[(Mount, PathBuf)]) -> Command {
    let root = folder.join("root");
    let create = |path: PathBuf| {
        fs::create_dir_all(&path).expect("the folder is the test's own");
        path
    };
    create(root.clone());
    fs::set_permissions(&root, Permissions::from_mode(0o755)).expect("the folder is the test's own");
    for library in ["usr", "lib", "lib64"] {
        let system = Path::new("/").join(library);
        match fs::read_link(&system) {
            Ok(target) => symlink(target, root.join(library)).expect("the folder is the test's own"),
            Err(_) if system.is_dir() => drop(create(root.join(library))),
            Err(_) => {}
        }
    }
    fs::write(root.join("service"), "").expect("the folder is the test's own");
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args(["--mount", "--", "/bin/sh", "-c", ISOLATE, "isolate"])
        .args([&root, program])
        .arg(format!("{}:{}", spec.user, spec.group));
    for (mount, source) in volumes {
        let below = mount.path.strip_prefix("/").expect("mounts are absolute");
        create(root.join(below));
        command
            .arg(&mount.path)
            .arg(source)
            .arg(if mount.read_only { "ro" } else { "rw" });
    }
    command.arg("--");
    command
}
