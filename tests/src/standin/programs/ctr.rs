//! `ctr`: containerd's own client, as far as images are imported. An archive of a stand-in is the list of its images.

use std::fs;

use anyhow::Result;

use super::{Call, err, out};

pub(super) fn ctr(call: &Call) -> Result<u8> {
    let arguments = call.arguments();
    let ["--namespace", "k8s.io", "images", "import", archive] = arguments.as_slice() else {
        err("ctr: no help topic for this stand-in");
        return Ok(1);
    };
    let Ok(images) = fs::read_to_string(archive) else {
        err(format_args!("ctr: open {archive}: no such file or directory"));
        return Ok(1);
    };
    for image in images.lines() {
        call.node.add_image(image)?;
        out(format_args!("unpacking {image} (sha256:0)...done"));
    }
    Ok(0)
}
