package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// rest is a worker's REST interface.
type rest struct {
	url    string
	client *http.Client
}

func newREST(port int) rest {
	return rest{
		url:    "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		client: &http.Client{Timeout: time.Minute},
	}
}

// ready returns nil once the worker has joined its group.
func (r rest) ready(ctx context.Context) error {
	status, body, err := r.call(ctx, http.MethodGet, "/connectors", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the worker answers %d: %s", status, body)
	}
	return err
}

// put creates the connector. It is not done, and is to be tried again, while
// the worker is busy with its group.
func (r rest) put(ctx context.Context, name string, config map[string]string) (done bool, err error) {
	status, body, err := r.call(ctx, http.MethodPut, "/connectors/"+name+"/config", config)
	switch {
	case err != nil:
		return false, err
	case status == http.StatusCreated || status == http.StatusOK:
		return true, nil
	case status == http.StatusConflict || status == http.StatusServiceUnavailable:
		return false, nil
	default:
		return false, fmt.Errorf("the worker answers %d: %s", status, body)
	}
}

// delete removes the connector; its offsets stay.
func (r rest) delete(ctx context.Context, name string) error {
	status, body, err := r.call(ctx, http.MethodDelete, "/connectors/"+name, nil)
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("the worker answers %d: %s", status, body)
	}
	return err
}

// running reports whether the connector and its one task run; an error says
// why they never will.
func (r rest) running(ctx context.Context, name string) (bool, error) {
	status, body, err := r.call(ctx, http.MethodGet, "/connectors/"+name+"/status", nil)
	if err != nil {
		return false, err
	}
	if status != http.StatusOK {
		return false, nil
	}
	type state struct{ State, Trace string }
	var answer struct {
		Connector state
		Tasks     []state
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return false, fmt.Errorf("read the connector's state: %w", err)
	}
	all := append([]state{answer.Connector}, answer.Tasks...)
	for _, s := range all {
		if s.State == "FAILED" {
			return false, fmt.Errorf("it failed: %s", s.Trace)
		}
	}
	for _, s := range all {
		if s.State != "RUNNING" {
			return false, nil
		}
	}
	return len(answer.Tasks) > 0, nil
}

func (r rest) call(ctx context.Context, method, path string, body any) (status int, answer []byte, err error) {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, fmt.Errorf("write the request: %w", err)
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, in)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, bytes.TrimSpace(answer), nil
}
