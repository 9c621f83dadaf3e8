// Package systemd tells a service manager how the process is (sd_notify(3)): that it has
// started, what it does, that it still makes progress, and that it stops. Without a
// service manager that asks for it, it does nothing.
package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Notifier writes to the service manager's socket. It belongs to one goroutine.
type Notifier struct {
	conn *net.UnixConn
	// watchdog is how soon after the last sign of life the process is ended; 0: never.
	watchdog time.Duration
}

// statusEvery is how often the status line may change.
const statusEvery = 5 * time.Second

// writeTimeout bounds a message: a service manager that reads none must not hold up what
// the next one says.
const writeTimeout = time.Second

// New returns nil where nobody asks. getenv is os.Getenv.
func New(getenv func(string) string) (*Notifier, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // @ is the abstract namespace's
	if err != nil {
		return nil, fmt.Errorf("connect to the service manager (NOTIFY_SOCKET): %w", err)
	}
	n := &Notifier{conn: conn}
	if micros := getenv("WATCHDOG_USEC"); micros != "" && (getenv("WATCHDOG_PID") == "" || getenv("WATCHDOG_PID") == strconv.Itoa(os.Getpid())) {
		us, err := strconv.ParseInt(micros, 10, 64)
		if err != nil || us <= 0 {
			conn.Close()
			return nil, fmt.Errorf("WATCHDOG_USEC is %q, not a number of microseconds", micros)
		}
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n, nil
}

// Run says that the process has started, and then how it is, until ended does; from
// stopping on that it stops. While progresses says no, no sign of life is given, and a
// service manager with a watchdog ends the process.
func (n *Notifier) Run(stopping, ended context.Context, progresses func() bool, status func() string) {
	defer n.conn.Close()
	every := statusEvery
	if n.watchdog > 0 {
		every = min(every, n.watchdog/2)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	look := func(state string) {
		if text := oneLine(status()); text != said {
			said = text
			state += "STATUS=" + text + "\n"
		}
		if n.watchdog > 0 && progresses() {
			state += "WATCHDOG=1\n"
		}
		n.send(state)
	}
	look("READY=1\n")
	stop := stopping.Done()
	for {
		select {
		case <-ended.Done():
			if stop != nil && stopping.Err() != nil { // both at once
				n.send("STOPPING=1\n")
			}
			return
		case <-stop:
			stop = nil
			n.send("STOPPING=1\n")
		case <-tick.C:
			look("")
		}
	}
}

// send writes one message. One that is lost is followed by the next.
func (n *Notifier) send(state string) {
	if state == "" {
		return
	}
	_ = n.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, _ = n.conn.Write([]byte(strings.TrimSuffix(state, "\n")))
}

// oneLine keeps what a server said from being further assignments.
func oneLine(text string) string {
	const longest = 300
	text = strings.Join(strings.Fields(text), " ")
	return strings.ToValidUTF8(text[:min(len(text), longest)], "")
}
