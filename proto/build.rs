//! Generates the messages and services with protox, so that no protoc is needed.

#![expect(clippy::disallowed_methods, reason = "a build script writes what it generates")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    for dir in ["liftlock", "etcd", "cri"] {
        println!("cargo:rerun-if-changed={dir}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let own = protox::compile(["liftlock/v1/agent.proto", "liftlock/v1/operator.proto"], ["."])?;
    fs::write(out.join("liftlock.v1.bin"), own.encode_to_vec())?;
    // Facts are by far the largest message, and the rarest: every other one would be as large.
    let own_messages = tonic_prost_build::configure().boxed(".liftlock.v1.AgentMessage.message.facts");
    // Written by hand: what it holds is to be printed nowhere.
    own_messages.skip_debug([".liftlock.v1.Invitation"]).compile_fds(own)?;

    let alpha = runtime_v1alpha2(&out)?;
    for file in [Path::new("etcd/rpc.proto"), Path::new("cri/runtime.proto"), &alpha] {
        let include = file.parent().ok_or("a proto file has a folder")?;
        let set = protox::compile([file], [include])?;
        tonic_prost_build::configure().compile_fds(set)?;
    }
    Ok(())
}

/// Kubernetes published CRI v1alpha2 and v1 with the same fields and numbers (removed in 1.26).
fn runtime_v1alpha2(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let v1 = fs::read_to_string("cri/runtime.proto")?;
    let dir = out.join("cri-v1alpha2");
    fs::create_dir_all(&dir)?;
    let path = dir.join("runtime_v1alpha2.proto");
    fs::write(&path, v1.replace("package runtime.v1;", "package runtime.v1alpha2;"))?;
    Ok(path)
}
