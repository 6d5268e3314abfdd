package state

import "strconv"

// keys makes the names of all keys.
//
// All that defines what apps there are (their hashes, the index, hostnames,
// the version counter, the change stream, and what instances count for on their
// nodes) shares one hash tag, so that a
// Redis Cluster keeps it in one slot and a script may change it atomically. A
// tag per app would spread the load, but no script could then claim a hostname,
// raise the global version and append to the stream together with the app's
// own write; and definitions change rarely. What is written often (rates,
// history, acknowledgements) has tags of its own and does spread.
type keys struct {
	prefix string // "fluxgate"
	tag    string // "{fluxgate}"
}

func newKeys(prefix string) keys { return keys{prefix, "{" + prefix + "}"} }

func (k keys) app(name string) string   { return k.tag + ":app:" + name }    // hash, see the package comment
func (k keys) edits(name string) string { return k.tag + ":policy:" + name } // list: changes of its policy, newest first
func (k keys) apps() string             { return k.tag + ":apps" }           // hash: app -> version
func (k keys) hosts() string            { return k.tag + ":hosts" }          // hash: hostname -> app
func (k keys) version() string          { return k.tag + ":version" }        // counter
func (k keys) changes() string          { return k.tag + ":changes" }        // stream; an entry's ID is VERSION-0

func (k keys) reserved() string { return k.tag + ":reserved" } // hash: node -> memory that instances there count for, in bytes
func (k keys) capacity() string { return k.tag + ":capacity" } // hash: node -> memory that it has, in bytes

func (k keys) installation() string      { return k.prefix + ":installation" }          // string
func (k keys) tokens() string            { return k.prefix + ":tokens" }                // hash: ID -> record
func (k keys) nodes() string             { return k.prefix + ":nodes" }                 // hash: name -> record
func (k keys) nodesVersion() string      { return k.prefix + ":nodes:version" }         // counter
func (k keys) gateways() string          { return k.prefix + ":gateways" }              // sorted set: gateway by expiry in ms
func (k keys) drain(inst string) string  { return k.prefix + ":drain:{" + inst + "}" }  // set of gateways
func (k keys) lease(name string) string  { return k.prefix + ":lease:{" + name + "}" }  // hash
func (k keys) history(app string) string { return k.prefix + ":history:{" + app + "}" } // sorted set: event by time in µs
func (k keys) traffic(app string) string { return k.prefix + ":traffic:{" + app + "}" } // hash: minute or hour in its ring -> block
func (k keys) recorded() string          { return k.prefix + ":recorded" }              // hash: the last minute and hour that were recorded, and a ring of minutes
func (k keys) usage(node string) string  { return k.prefix + ":usage:{" + node + "}" }  // string: what its instances use
func (k keys) active() string            { return k.prefix + ":active" }                // sorted set: app by last activity in s
func (k keys) memory(app string) string  { return k.prefix + ":memory:{" + app + "}" }  // string: what was learned of its traffic, JSON
func (k keys) due() string               { return k.prefix + ":due" }                   // sorted set: app by when it has to be looked at, in s
func (k keys) certIndex() string         { return k.prefix + ":{certs}:index" }         // sorted set, lexical: names
func (k keys) certValues() string        { return k.prefix + ":{certs}:values" }        // hash: name -> record
func (k keys) certLock(n string) string  { return k.prefix + ":certlock:{" + n + "}" }  // string: token
func (k keys) rates(second int64) string { // hash: GATEWAY|APP -> counts
	return k.prefix + ":rates:{" + strconv.FormatInt(second, 10) + "}"
}
