package state

import (
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/fluxgate/fluxgate/router"
)

// What a URL may look like, for error messages.
const urlForms = "write redis://[user:password@]host:6379[/db], rediss:// for TLS, unix:///path/to.sock, " +
	"several hosts with commas for a Cluster, or redis+sentinel://host:26379,host2:26379/mastername[/db]"

// The bounds of every call. A call that is retried stays within callTimeout
// as a whole.
const (
	dialTimeout = 2 * time.Second
	ioTimeout   = 2 * time.Second
	callTimeout = 5 * time.Second
)

// parseURL reads the --redis URL. The label names the server in messages
// without user or password. No error repeats any part of the URL, because a
// mistyped one may show its password in any place.
func parseURL(text string) (opts *redis.UniversalOptions, label string, err error) {
	wrong := func(what string) (*redis.UniversalOptions, string, error) {
		return nil, "", router.Errorf(router.CodeInvalid, "the Redis URL %s: %s", what, urlForms)
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return wrong("has no scheme")
	}
	scheme, sentinel := strings.CutSuffix(scheme, "+sentinel")

	// The list of hosts is no part of any URL grammar: the parser gets the
	// first one, and the others are read here.
	hosts := []string{""}
	if scheme != "unix" {
		authority, tail := rest, ""
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			authority, tail = rest[:i], rest[i:]
		}
		user := ""
		if i := strings.LastIndexByte(authority, '@'); i >= 0 {
			user, authority = authority[:i+1], authority[i+1:]
		}
		hosts = strings.Split(authority, ",")
		rest = user + hosts[0] + tail
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		return wrong("cannot be read")
	}
	master, port := "", "6379"
	if sentinel {
		port = "26379"
		master, rest, _ = strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		if master == "" {
			return wrong("names no Sentinel master")
		}
		u.Path = "/" + rest
	}
	query := u.Query()
	sentinelUser, sentinelPassword := query.Get("sentinel_username"), query.Get("sentinel_password")
	query.Del("sentinel_username")
	query.Del("sentinel_password")
	u.RawQuery = query.Encode()

	one, err := redis.ParseURL(u.String())
	if err != nil {
		return wrong("has an unknown scheme or option, or a database that is not a number")
	}
	opts = &redis.UniversalOptions{
		DB: one.DB, Username: one.Username, Password: one.Password, TLSConfig: one.TLSConfig,
		PoolSize: one.PoolSize, ClientName: one.ClientName, Protocol: one.Protocol,
		MasterName: master, SentinelUsername: sentinelUser, SentinelPassword: sentinelPassword,
		DialTimeout: dialTimeout, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout,
		ContextTimeoutEnabled: true,
		MaxRetries:            2,
		DialerRetries:         1,
		DisableIdentity:       true,
		PipelinePoolSize:      -1,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled, // a hosted product's own push messages; nothing here uses them
		},
	}
	if scheme == "unix" {
		if !strings.HasPrefix(one.Addr, "/") {
			return wrong("needs a socket with an absolute path")
		}
		opts.Addrs = []string{one.Addr}
		return opts, one.Addr, nil
	}
	for _, h := range hosts {
		host, p, err := net.SplitHostPort(h)
		if err != nil {
			host, p = strings.Trim(h, "[]"), port
		}
		if host == "" && len(hosts) == 1 {
			host = "localhost"
		}
		if host == "" || strings.ContainsAny(host, " /@") || p == "" {
			return wrong("has a host that cannot be read")
		}
		opts.Addrs = append(opts.Addrs, net.JoinHostPort(host, p))
	}
	if opts.TLSConfig != nil && (len(hosts) > 1 || sentinel) {
		opts.TLSConfig.ServerName = "" // each connection's own host
	}
	if len(hosts) > 1 && !sentinel && opts.DB != 0 {
		return wrong("names a database, but a Cluster has only database 0")
	}
	return opts, strings.Join(opts.Addrs, ","), nil
}
