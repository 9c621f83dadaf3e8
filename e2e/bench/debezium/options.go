package debezium

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Options say what to connect and how. DSN is needed by
// all, Brokers and Profile by Start and CatchUp.
type Options struct {
	// DSN is the database with the outbox, in any form that pgx takes. It must
	// lead over TCP: Java's driver knows no Unix sockets.
	DSN string

	// Brokers are the bootstrap addresses of Kafka.
	Brokers []string

	// Profile is the connector's configuration but for what these options say.
	Profile Profile

	// Override sets or replaces single connector options, after everything
	// else. An empty value removes one.
	Override map[string]string

	// Table is the outbox. Defaults to public.outbox.
	Table string

	// Slot and Publication must exist if rows written before the start are to
	// be streamed; see [Prepare]. Default to debezium.
	Slot, Publication string

	// RouteBy is the column whose value ends the topic's name. Defaults to the
	// profile's, and so to aggregatetype, like the router itself.
	RouteBy string

	// TopicPrefix begins the topic's name. Defaults to outbox.event. as in the
	// router itself.
	TopicPrefix string

	// Heap is the worker's largest heap, such as 512m; it starts with 256m.
	// Defaults to 2g, as Kafka's own connect-distributed.sh does.
	Heap string

	// JVM are options for Java beside the heap. Default to those of the
	// profile.
	JVM []string

	// Java is the program to run. Defaults to java on the PATH.
	Java string

	// Name is the connector's name, the worker's group, and the stem of its
	// internal topics. A later start with the same name resumes at the offset
	// of the earlier one. Defaults to a new name each time, so that the slot
	// alone says where to start.
	Name string

	// Drained, if set, is called by CatchUp when the last record is there and
	// the worker still runs, to look at what else the drain has cost.
	Drained func()
}

// withDefaults returns a copy in which nothing is left open, and where the
// database is.
func (o Options) withDefaults() (Options, *pgx.ConnConfig, error) {
	db, err := pgx.ParseConfig(o.DSN)
	if err != nil {
		return o, nil, fmt.Errorf("read the DSN: %w", err)
	}
	if strings.HasPrefix(db.Host, "/") {
		return o, nil, fmt.Errorf("the DSN leads to the Unix socket in %s: Java's driver needs a host name", db.Host)
	}
	o.Table = cmp.Or(o.Table, "public.outbox")
	o.Slot = cmp.Or(o.Slot, "debezium")
	o.Publication = cmp.Or(o.Publication, "debezium")
	o.TopicPrefix = cmp.Or(o.TopicPrefix, "outbox.event.")
	o.Heap = cmp.Or(o.Heap, "2g")
	o.Java = cmp.Or(o.Java, "java")
	o.Name = cmp.Or(o.Name, fmt.Sprintf("debezium-%08x", rand.Uint32()))
	if o.JVM == nil {
		o.JVM = o.Profile.JVM
	}
	return o, db, nil
}

// startable returns an error if there is nothing to start a worker with.
func (o Options) startable() error {
	if len(o.Brokers) == 0 {
		return errors.New("no Kafka brokers are given")
	}
	if o.Profile.Connector == nil {
		return errors.New("no profile is given")
	}
	return nil
}

// connector returns the configuration that goes to Kafka Connect.
func (o Options) connector(db *pgx.ConnConfig) map[string]string {
	c := make(map[string]string, len(o.Profile.Connector)+16)
	for name, value := range o.Profile.Connector {
		c[name] = value
	}
	c["name"] = o.Name
	c["topic.prefix"] = o.Name
	c["database.hostname"] = db.Host
	c["database.port"] = strconv.Itoa(int(db.Port))
	c["database.user"] = db.User
	c["database.password"] = db.Password
	c["database.dbname"] = db.Database
	c["table.include.list"] = o.Table
	c["slot.name"] = o.Slot
	c["publication.name"] = o.Publication
	c["transforms.outbox.route.topic.replacement"] = o.TopicPrefix + "${routedByValue}"
	if o.RouteBy != "" {
		c["transforms.outbox.route.by.field"] = o.RouteBy
	}
	for name, value := range o.Override {
		if value == "" {
			delete(c, name)
		} else {
			c[name] = value
		}
	}
	return c
}
