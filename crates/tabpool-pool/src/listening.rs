//! The pool's listeners: its own on loopback, and the endpoint's where there is one.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener, ListenerExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::door::Door;
use crate::server::{self, Served};
use crate::{JoinEndpoint, PoolError};

/// Servers that answer until they are dropped.
pub(crate) struct Listening {
    /// Where the pool's own workers find it.
    pub(crate) url: String,
    /// What the URLs of tickets begin with.
    pub(crate) join_url: String,
    pub(crate) servers: JoinSet<()>,
}

impl Listening {
    /// Listens on an address of loopback, and where an endpoint says.
    pub(crate) async fn start(
        own: SocketAddr,
        endpoint: Option<&JoinEndpoint>,
        served: Served,
    ) -> Result<Self, PoolError> {
        // What cannot be had is said before anything listens.
        let tls = endpoint.map(JoinEndpoint::check).transpose()?.flatten();
        let (listener, address) = listen(own).await?;
        let url = format!("http://{address}");
        let (mut join_url, mut servers) = (url.clone(), JoinSet::new());
        if let Some(endpoint) = endpoint {
            let (listener, bound) = listen(endpoint.address()).await?;
            let names = endpoint.names_on(bound)?;
            join_url.clone_from(&names.url);
            // Only a listener that is tapped tells who connects.
            let door = Door::new(listener, tls).tap_io(|_| ());
            servers.spawn(serve(door, server::public_router(served.clone(), names)));
        }
        // Frames are small and wait for answers: held back until the last one is acknowledged, each would cost 40 ms.
        let listener = listener.tap_io(|connection| {
            if let Err(e) = connection.set_nodelay(true) {
                tracing::warn!(error = %e, "a connection holds small messages back");
            }
        });
        servers.spawn(serve(listener, server::router(served, address)));
        Ok(Self { url, join_url, servers })
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), PoolError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bound.await.map_err(|source| PoolError::Listen { address, source })
}

/// Answers whoever comes.
async fn serve<L>(listener: L, router: Router)
where
    L: Listener<Addr = SocketAddr>,
    SocketAddr: for<'a> Connected<IncomingStream<'a, L>>,
{
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(e) = axum::serve(listener, service).await {
        tracing::error!(error = %e, "a server of the pool's ended");
    }
}
