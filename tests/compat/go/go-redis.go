// go-redis and redisc doing their ordinary job. Arguments: the port of a standalone view, then the ports of all cluster
// views. The go-redis of Debian 12 cannot read the slots of a cluster of Redis 7, so redisc is asked to.
package main

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	redigo "github.com/gomodule/redigo/redis"
	"github.com/mna/redisc"
	redis "gopkg.in/redis.v5"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func equal(found, expected interface{}) {
	if !reflect.DeepEqual(found, expected) {
		panic(fmt.Sprintf("%#v, not %#v", found, expected))
	}
}

func address(port string) string {
	return "127.0.0.1:" + port
}

func standalone(port string) {
	client := redis.NewClient(&redis.Options{Addr: address(port)})
	defer client.Close()
	must(client.FlushAll().Err())
	must(client.Set("key", "value", 100*time.Second).Err())
	equal(client.Get("key").Val(), "value")
	equal(client.Get("none").Err(), redis.Nil)
	equal(client.SetNX("key", "other", 0).Val(), false)
	equal(client.TTL("key").Val() > 90*time.Second, true)
	must(client.MSet("a", "1", "b", "2").Err())
	equal(client.MGet("a", "b", "none").Val(), []interface{}{"1", "2", nil})
	equal(client.IncrBy("count", 5).Val(), int64(5))
	equal(client.Incr("key").Err().Error(), "ERR value is not an integer or out of range")
	equal(client.Del("a", "b", "none").Val(), int64(2))
	equal(strings.Contains(client.Info("server").Val(), "redis_version:7"), true)

	var incremented *redis.IntCmd
	_, err := client.Pipelined(func(pipe *redis.Pipeline) error {
		pipe.Set("p", 1, 0)
		incremented = pipe.Incr("p")
		return nil
	})
	must(err)
	equal(incremented.Val(), int64(2))
	transactions(client)
	messages(client)

	for n := 0; n < 200; n++ {
		must(client.Set(fmt.Sprintf("scan:%d", n), n, 0).Err())
	}
	found := map[string]bool{}
	keys := client.Scan(0, "scan:*", 30).Iterator()
	for keys.Next() {
		found[keys.Val()] = true
	}
	must(keys.Err())
	equal(len(found), 200)
}

// Clients that count up a key together by reading and writing it under WATCH: none of them is lost.
func transactions(client *redis.Client) {
	var all sync.WaitGroup
	for n := 0; n < 5; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				err := client.Watch(func(tx *redis.Tx) error {
					count, err := tx.Get("counter").Int64()
					if err != nil && err != redis.Nil {
						return err
					}
					_, err = tx.Pipelined(func(pipe *redis.Pipeline) error {
						pipe.Set("counter", count+1, 0)
						return nil
					})
					return err
				}, "counter")
				if err == nil {
					return
				}
				equal(err, redis.TxFailedErr)
			}
		}()
	}
	all.Wait()
	equal(client.Get("counter").Val(), "5")
}

func messages(client *redis.Client) {
	subscriber, err := client.Subscribe("news")
	must(err)
	defer subscriber.Close()
	must(subscriber.PSubscribe("n*"))
	for n := 0; n < 3; n++ { // the answers to the subscriptions, and to a PING
		if n == 2 {
			must(subscriber.Ping("there"))
		}
		_, err := subscriber.ReceiveTimeout(5 * time.Second)
		must(err)
	}
	equal(client.Publish("news", "hello").Val(), int64(2))
	for _, pattern := range []string{"", "n*"} {
		message, err := subscriber.ReceiveMessage()
		must(err)
		equal([]string{message.Channel, message.Pattern, message.Payload}, []string{"news", pattern, "hello"})
	}
}

func cluster(ports []string) {
	client := redisc.Cluster{
		StartupNodes: []string{address(ports[0])},
		CreatePool: func(address string, options ...redigo.DialOption) (*redigo.Pool, error) {
			dial := func() (redigo.Conn, error) { return redigo.Dial("tcp", address, options...) }
			return &redigo.Pool{MaxIdle: 5, Dial: dial}, nil
		},
	}
	defer client.Close()
	must(client.Refresh())
	run := func(name string, args ...interface{}) (interface{}, error) {
		connection := client.Get()
		defer connection.Close()
		return connection.Do(name, args...)
	}
	for n := 0; n < 300; n++ {
		_, err := run("SET", fmt.Sprintf("key:%d", n), n)
		must(err)
	}
	for n := 0; n < 300; n++ {
		value, err := redigo.Int(run("GET", fmt.Sprintf("key:%d", n)))
		must(err)
		equal(value, n)
	}
	equal(len(client.Stats()), len(ports)) // each node has its keys
	_, err := run("MGET", "key:0", "key:1")
	equal(strings.HasPrefix(err.Error(), "CROSSSLOT"), true)
	for _, keys := range redisc.SplitBySlot("{a}1", "{b}1", "{a}2") {
		connection := client.Get()
		must(redisc.BindConn(connection, keys...))
		count, err := redigo.Int(connection.Do("EXISTS", redigo.Args{}.AddFlat(keys)...))
		must(err)
		equal(count, 0)
		must(connection.Close())
	}
	lost, err := redisc.RetryConn(client.Get(), 3, 100*time.Millisecond) // at some node: it follows to the right one
	must(err)
	defer lost.Close()
	for n := 0; n < 30; n++ {
		value, err := redigo.Int(lost.Do("GET", fmt.Sprintf("key:%d", n)))
		must(err)
		equal(value, n)
	}
}

func main() {
	standalone(os.Args[1])
	cluster(os.Args[2:])
	fmt.Println("done")
}
