# Load for the soak test, run by a guest's perl-base. Every worker checks all it computes; what is
# wrong is told on the console and in a file.
#
#   perl soak.pl compute            one round of the computing worker, printed (also on the host)
#   perl soak.pl run FOLDER         all workers, until killed; FOLDER has the expected results
#
# The file FOLDER/expected: `compute RESULT`, `cc FILE SHA256`, `row NAME CHECKSUM`. The workers
# count their rounds in /run/soak.
use strict;
use warnings;

my ($mode, $folder) = @ARGV;
my $status = "/run/soak";

sub next_random { return ($_[0] * 1664525 + 1013904223) & 0xffffffff }

# Integers and doubles, each step on the last one's result: a logistic map forgets no error.
sub compute {
    my ($n, $x, $hash) = (5, 0.4, 0);
    for (1 .. 200000) {
        $n = next_random($n);
        $x = 3.99 * $x * (1 - $x);
        $hash = (($hash << 5) + ($hash >> 3) + ($n ^ int($x * 1e9))) & 0xffffffff;
    }
    return sprintf("%08x:%.17g", $hash, $x);
}

sub diverged {
    my ($text) = @_;
    for my $name ("$status/DIVERGED", "/dev/ttyS0") {
        open(my $out, '>>', $name) or next;
        print $out "DIVERGED $text\n";
        close $out;
    }
    sleep 3600 while 1;
}

sub expect {
    my ($what, $got, $wanted) = @_;
    diverged("$what: $got, expected $wanted") if $got ne $wanted;
}

sub output_of {
    open(my $in, '-|', @_) or die "start @_: $!";
    local $/;
    my $text = <$in>;
    close $in or die "@_ failed: $?";
    return $text;
}

sub sha256 { return (split ' ', output_of('sha256sum', $_[0]))[0] }

my (%expected, %worker);

$worker{compute} = sub { expect('compute', compute(), $expected{compute}[0][0]) };

# The packaged compiler on the CD; two of them at work.
for my $name ('cc1', 'cc2') {
    my $turn = 0;
    $worker{$name} = sub {
        my $unit = $expected{cc}[$turn++ % @{ $expected{cc} }];
        my ($file, $sum) = @$unit;
        my $object = "/tmp/$name.o";
        output_of('chroot', '/mnt', '/bin/sh', '-c',
            "cd /src/lua5.4/src && gcc-12 -O2 -DLUA_USE_LINUX -c -o $object $file && echo done");
        expect("compile $file", sha256("/mnt$object"), $sum);
    };
}

# Rows of the benchmarks, 64- and 32-bit: vector units, code that is written and run, interpreters.
{
    my $turn = 0;
    $worker{rows} = sub {
        my ($name, $sum) = @{ $expected{row}[$turn++ % @{ $expected{row} }] };
        my $program = $name =~ /\.32$/ ? 'bench32' : 'init';
        $ENV{BENCH_ROOT} = "$folder/bench";
        my $said = output_of("$folder/bench/$program", '0.01', $name);
        my ($got) = $said =~ /^BENCH \S+ \S+ ([0-9a-f]{16})$/m;
        expect("row $name", $got // 'nothing', $sum);
    };
}

# A child sends what it was told through pipes, in pieces of all sizes.
$worker{pipe} = sub {
    pipe(my $from, my $to) or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    my $seed = int(rand(2**32));
    my $text = join ',', map { $seed = next_random($seed) } 1 .. 20000;
    if ($pid == 0) {
        for (my $at = 0; $at < length $text;) {
            $at += syswrite($to, $text, 1 + int(rand(9000)), $at) // die "write: $!";
        }
        exit 0;
    }
    close $to;
    my $got = '';
    while (sysread($from, my $piece, 1 + int(rand(9000)))) { $got .= $piece }
    waitpid($pid, 0);
    expect('pipe', $? . unpack('%32C*', $got), '0' . unpack('%32C*', $text));
    diverged('pipe: another text') if $got ne $text;
    expect('true', system('/bin/true'), 0) for 1 .. 10;
};

# Files that are read back from the disk, not from memory. The last ones outlive a reset.
{
    my $turn = int(rand(8));
    $worker{disk} = sub {
        my $name = "$folder/disk/" . $turn++ % 8;
        unlink "$name.sum";
        my $block = join '', map { pack 'N', int(rand(2**32)) } 1 .. 4096;
        open(my $out, '>', "$name.data") or die "$name: $!";
        for my $i (1 .. 256 + int(rand(512))) { print $out pack('N', $i), $block or die "write: $!" }
        close $out or die "close: $!";
        my $sum = sha256("$name.data");
        system('sync', "$name.data") and die 'sync';
        # Out of memory with it, but not with the compiler.
        system('dd', "if=$name.data", 'iflag=nocache', 'count=0', 'status=none') and die 'dd';
        expect("file $name", sha256("$name.data"), $sum);
        open($out, '>', "$name.sum") or die "$name: $!";
        print $out $sum;
        close $out;
        system('sync', "$name.sum", "$folder/disk") and die 'sync';
    };
}

sub verify_files {
    for my $file (glob("$folder/disk/*.sum")) {
        open(my $in, '<', $file) or die "$file: $!";
        my $sum = <$in> // '';
        close $in;
        # A reset may have come between the file and its content.
        next if length $sum != 64;
        (my $data = $file) =~ s/sum$/data/;
        expect("$data after a reset", sha256($data), $sum);
    }
}

# Much memory for a short time: faults, zeroed pages, unmapping.
$worker{memory} = sub {
    my @pieces;
    for my $i (1 .. 40) {
        my $size = 1 << (12 + int(rand(10)));
        push @pieces, [$i, chr(65 + $i % 26) x $size];
        splice(@pieces, int(rand(@pieces)), 1) if rand() < 0.4;
    }
    for my $piece (@pieces) {
        my ($i, $text) = @$piece;
        my $byte = chr(65 + $i % 26);
        expect('memory', ($text =~ tr/A-Z//) . ($text =~ /^\Q$byte\E+$/ ? '' : ' mixed'), length $text);
    }
};

# CLOCK_MONOTONIC on one processor after the other (sched_setaffinity, clock_gettime of x86-64).
{
    my $last = 0;
    $worker{clock} = sub {
        for my $i (1 .. 50) {
            my $mask = pack 'Q', 1 << ($i % 2);
            syscall(203, 0, 8, $mask) == 0 or die "affinity: $!";
            my $time = pack 'QQ', 0, 0;
            syscall(228, 1, $time) == 0 or die "clock: $!";
            my ($s, $ns) = unpack 'QQ', $time;
            my $now = $s * 1000000000 + $ns;
            diverged("clock: $now after $last") if $now < $last;
            $last = $now;
            select(undef, undef, undef, 0.002);
        }
    };
}

if ($mode eq 'compute') {
    print compute(), "\n";
    exit;
}
open(my $in, '<', "$folder/expected") or die "$folder/expected: $!";
while (<$in>) {
    my ($kind, @words) = split;
    push @{ $expected{$kind} }, \@words;
}
mkdir $status;
mkdir "$folder/disk";
verify_files();
for my $name (sort keys %worker) {
    next if fork() // die "fork: $!";
    srand(time ^ $$);
    for (my $rounds = 1;; $rounds++) {
        eval { $worker{$name}->(); 1 } or diverged("$name: $@");
        open(my $out, '>', "$status/$name") or die "$name: $!";
        print $out "$rounds\n";
        close $out;
    }
}
