//! `liftlock token create|list|revoke`

use clap::{Args, Subcommand};
use liftlock_proto::name::NodeName;
use liftlock_proto::v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Subject};

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::time::{clock, parse_seconds};
use crate::cli::view::tokens::{NewTokenView, TokensView};

/// Options of `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make a one-time token; it is shown once and stored nowhere.
    Create(CreateArgs),
    /// Show the tokens, without their secrets.
    List(ListArgs),
    /// Make a token worthless; if it was used, also every certificate that its owner has.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// How long it may be used, at most 7 days.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_seconds)]
    ttl: u32,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SubjectArgs {
    /// For the agent on this node; the name must be the Kubernetes Node's.
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// For a person or program that may change roll-outs and tokens.
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
    /// For a person or program that may only read.
    #[arg(long, value_name = "NAME")]
    viewer: Option<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The token's id, as `liftlock token list` shows it.
    #[arg(value_name = "ID")]
    id: String,
    /// The machine is off, or cut off from the cluster: its node may hold a lease, which ends as a failed one and halts the
    /// roll-out.
    #[arg(long)]
    fenced: bool,
}

pub(crate) async fn run(desk: &Desk, args: TokenArgs) -> Result<Exit, CliError> {
    match args.verb {
        TokenVerb::Create(args) => create(desk, args).await,
        TokenVerb::List(args) => list(desk, args).await,
        TokenVerb::Revoke(args) => revoke(desk, args).await,
    }
}

async fn create(desk: &Desk, args: CreateArgs) -> Result<Exit, CliError> {
    let (subject, name) = args.subject.subject()?;
    let request = CreateTokenRequest { subject: subject.into(), name: name.clone(), ttl_seconds: args.ttl };
    let answer = desk.whereabouts.connect().await?.create_token(request).await?.into_inner();
    let view = NewTokenView::from(answer);
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    if args.output.output == Format::Table {
        output::note(&format!(
            "Good once, until {}. {}",
            clock(view.expires_at),
            match subject {
                Subject::Node => format!(
                    "On {name}: write it to /etc/liftlock/join-token (mode 0600) and start liftlock-agent."
                ),
                _ => "There: `liftlock login --token-file FILE --coordinator URL`.".to_owned(),
            }
        ));
    }
    Ok(Exit::Done)
}

impl SubjectArgs {
    fn subject(self) -> Result<(Subject, String), CliError> {
        match (self.node, self.operator, self.viewer) {
            (Some(node), _, _) => Ok((Subject::Node, node.into())),
            (_, Some(operator), _) => Ok((Subject::Operator, operator)),
            (_, _, Some(viewer)) => Ok((Subject::Viewer, viewer)),
            _ => Err(CliError::Usage("give one of --node, --operator and --viewer".to_owned())),
        }
    }
}

async fn list(desk: &Desk, args: ListArgs) -> Result<Exit, CliError> {
    let tokens = desk.whereabouts.connect().await?.list_tokens(ListTokensRequest {}).await?.into_inner();
    output::write(&output::render(&TokensView::from(tokens), args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}

async fn revoke(desk: &Desk, args: RevokeArgs) -> Result<Exit, CliError> {
    let RevokeArgs { id, fenced } = args;
    let request = RevokeTokenRequest { id: id.clone(), fenced };
    let answer = desk.whereabouts.connect().await?.revoke_token(request).await?.into_inner();
    output::note(&format!("Token {id} is worthless now, and so are certificates that it bought."));
    if !answer.ended.is_empty() {
        output::note(&answer.ended);
    }
    Ok(Exit::Done)
}
