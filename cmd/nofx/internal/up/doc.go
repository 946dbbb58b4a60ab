// Package up runs the whole of NOFX on one machine, as the same separate
// processes as in production: a private Postgres, nofx-api, nofxd and the
// driver plugins that nofxd starts.
//
// Everything it makes is below one data folder:
//
//	client.env      how clients reach it: NOFX_API_URL, NOFX_API_KEY, NOFX_CA_FILE
//	installation.json  this installation's name on the host (cgroup, uid range)
//	lock            held while it runs
//	run/NAME.pid    the process ids, for scripts
//	log/NAME.log    the logs, bounded
//	tls/            the development CA and the server's certificate
//	pg/             the Postgres cluster
//	blobs/          output and artifacts
//	worker/         the daemon's ledger, journals and workspaces
//	worker.token    the daemon's key
//	keyset.json     the keys with which the API seals what is sensitive
//	plugins/        the driver plugins, copied here so that root owns them; links to scripts
//	nofxd.yaml      the daemon's configuration
//
// A sudden death of `nofx up` leaves its children running; the next one on
// the same folder ends them, by process id and start time, and starts anew.
// Steps that run in sandboxes meanwhile are taken up again by the daemon.
package up
