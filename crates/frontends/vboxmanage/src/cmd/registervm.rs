//! `registervm`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};

pub const COMMAND: Command = Command {
    name: "registervm",
    aliases: &[],
    usage: || "  VBoxManage registervm <filename> [--password=file]\n".to_owned(),
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

const OPTIONS: &[Opt] = &[value(&["--password", "-p"])];

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (mut file, mut password) = (None, String::new());
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => password = crate::password_of(&given.value)?,
            Arg::Word(word) if file.is_none() => file = Some(word),
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let file = file.ok_or_else(|| Failure::syntax("Filename missing"))?;
    let vbox = cx.vbox()?;
    let machine = vbox
        .open_machine(&absolute(&file)?, &password)
        .during("OpenMachine(Bstr(szVMFileAbs).raw(), bstrPassword.raw(), machine.asOutParam())")?;
    vbox.register_machine(&machine)
        .during("RegisterMachine(machine)")
}
