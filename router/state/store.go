package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// Options say which Redis to use and how.
type Options struct {
	URL    string       // redis://, rediss://, unix://, redis+sentinel://; several hosts with commas are a Cluster
	Prefix string       // of all keys; "fluxgate" unless given
	Logger *slog.Logger // nothing is logged where it is nil
}

// Store is the state in Redis. All methods may be called concurrently.
type Store struct {
	client   redis.UniversalClient
	opts     *redis.UniversalOptions
	keys     keys
	label    string // the server's address, for messages
	info     string // "Redis 7.0.15"
	log      *slog.Logger
	gates    gates
	seen     seen
	releases releaseCache
	kept     keepsake
	block    time.Duration // how long one read of the change stream waits; tests shorten it

	life  context.Context // ends with Close
	end   context.CancelFunc
	locks sync.WaitGroup // renewals of certificate locks
	once  sync.Once
}

// The oldest server whose commands suffice (ZADD GT).
const minMajor, minMinor = 6, 2

var prefixForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$`)

// The client library prints connection trouble to standard error by itself;
// all of it also comes back as errors, which are handled here.
func init() { redis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// Open connects, and checks that the server answers and is new enough. The
// caller closes the Store.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Prefix == "" {
		o.Prefix = "fluxgate"
	}
	if !prefixForm.MatchString(o.Prefix) {
		return nil, router.Errorf(router.CodeInvalid, "the Redis key prefix %q is not valid: use letters, digits, and any of _ . : -, at most 64", o.Prefix)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	opts, label, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	s := &Store{
		client: redis.NewUniversalClient(opts), opts: opts, keys: newKeys(o.Prefix), label: label, log: o.Logger,
		gates: gates{open: map[string]*gate{}}, seen: seen{apps: map[string]uint64{}},
		kept: keepsake{another: make(chan struct{})}, block: 5 * time.Second,
	}
	s.life, s.end = context.WithCancel(context.Background())
	if err := s.check(ctx); err != nil {
		_ = s.client.Close() // nothing of it is in use
		return nil, err
	}
	return s, nil
}

// check asks the server what it is.
func (s *Store) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	text, err := s.client.Info(ctx).Result()
	if err != nil {
		err = s.fail(ctx, "connecting", err)
		var known *router.Error
		if errors.As(err, &known) && known.Code == router.CodeUnavailable {
			return s.unavailable("%w\nstart it, or correct --redis; without --redis, Fluxgate runs a Redis of its own", err)
		}
		return err
	}
	info := parseInfo(text)
	if info["redis_mode"] == "cluster" && len(s.opts.Addrs) == 1 && !s.opts.IsClusterMode {
		// One node of a Cluster was named: it tells the others.
		_ = s.client.Close()
		s.opts.IsClusterMode = true
		s.client = redis.NewUniversalClient(s.opts)
	}
	s.info = serverName(info)
	var major, minor int
	if _, err := fmt.Sscanf(info["redis_version"], "%d.%d", &major, &minor); err == nil &&
		(major < minMajor || major == minMajor && minor < minMinor) {
		return router.Errorf(router.CodeInvalid, "%s at %s is too old: Fluxgate needs Redis %d.%d or Valkey", s.info, s.label, minMajor, minMinor)
	}
	if policy := info["maxmemory_policy"]; info["maxmemory"] != "0" && strings.HasPrefix(policy, "allkeys") {
		s.log.Warn("this Redis may throw away Fluxgate's records when its memory is full: set maxmemory-policy to noeviction",
			"redis", s.label, "maxmemory_policy", policy)
	}
	return nil
}

// Close ends all connections; what is under way fails.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		s.end()
		s.locks.Wait()
		err = s.client.Close()
	})
	return err
}

// Ping asks the server for an answer.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "asking for an answer", s.client.Ping(ctx).Err())
}

// Info is the server's name and version: "Redis 7.0.15". It asks the server.
func (s *Store) Info(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	text, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return "", s.fail(ctx, "asking for the version", err)
	}
	return serverName(parseInfo(text)), nil
}

// parseInfo reads the answer to INFO: "name:value" lines and "# Section" ones.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

func serverName(info map[string]string) string {
	if v := info["valkey_version"]; v != "" {
		return "Valkey " + v
	}
	return "Redis " + info["redis_version"]
}
